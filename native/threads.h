// The threads of one call, a barrier between them, and memory for one call.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace headgate {

// All threads of a team meet here. It spins, because the wait is short; after a while it gives the processor away.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait();

 private:
  const int count_;
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> round_{0};
};

// Threads, taken for as long as this lives. They serve one team at a time: another one that comes meanwhile, from another
// thread of the program, is the calling thread alone.
class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }
  Barrier& barrier() { return barrier_; }

  // Calls work(index) for every index below size(), 0 on the calling thread; returns when all are done. It must not throw.
  // Throws std::system_error where that many threads are not to be had.
  template <class F> void run(F&& work) {
    start([](void* context, int index) { (*static_cast<std::remove_reference_t<F>*>(context))(index); }, &work);
  }

 private:
  void start(void (*work)(void*, int), void* context);
  int size_;
  Barrier barrier_;
};

// Memory for one call. The calling thread keeps it for its next call, which then finds it mapped.
class Workspace {
 public:
  Workspace() = default;
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* bytes(size_t size);  // 64-byte aligned, not cleared; throws std::bad_alloc
  template <class T> T* get(int64_t n) { return static_cast<T*>(bytes(size_t(n) * sizeof(T))); }

 private:
  size_t used_ = 0;
};

}  // namespace headgate
