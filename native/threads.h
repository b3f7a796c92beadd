// The threads of one call, a barrier between them, and memory for one call.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

namespace headgate {

using Clock = std::chrono::steady_clock;

// Waiting for an atomic variable that another thread changes: by looking at it for some microseconds, because the change is
// near as a rule, then asleep, so that whoever else needs the processor gets it.
class Signal {
 public:
  // Returns when done(), which must read the variable in sequentially consistent order.
  template <class F> void wait(F done);
  // Wakes whoever sleeps. To be called after each change of the variable, in sequentially consistent order too.
  void announce();

 private:
  std::atomic<int> sleepers_{0};
  std::mutex sleep_;
  std::condition_variable wake_;
};

// All threads of a team meet here.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait();
  void delayed(Clock::duration time);  // before the first thread was here or after the last one
  Clock::time_point made() const { return made_; }
  // How long a thread has waited here, on average, for others that did not get a processor.
  Clock::duration stalled() const { return Clock::duration(stalled_.load(std::memory_order_relaxed) / (count_ - 1)); }

 private:
  const int count_;
  const Clock::time_point made_ = Clock::now();
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> round_{0};
  std::atomic<Clock::rep> stalled_{0};
  Signal turned_;
};

// Threads, taken for as long as this lives. They serve one team at a time: another one that comes meanwhile, from another
// thread of the program, is the calling thread alone. So is every team for a while when threads have had to wait for
// processors that other programs use: results do not depend on a team's size.
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
