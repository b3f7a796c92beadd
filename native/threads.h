// The threads of one call, their barrier, and the memory of one call.
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

// Waits for another thread to change an atomic variable: first by polling it for a few microseconds, because the change
// usually comes soon, then asleep, to leave the processor to others.
class Signal {
 public:
  // Returns once done() is true; done() must read the variable in sequentially consistent order.
  template <class F> void wait(F done);
  // Wakes all sleepers. Must be called after each change of the variable, which must be sequentially consistent too.
  void announce();

 private:
  std::atomic<int> sleepers_{0};
  std::mutex sleep_;
  std::condition_variable wake_;
};

// The point where all threads of a team wait for each other.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait();
  void delayed(Clock::duration time);  // adds a delay before the work began or after it ended
  Clock::time_point made() const { return made_; }
  // The average time that a thread has waited here for others that did not get a processor.
  Clock::duration stalled() const { return Clock::duration(stalled_.load(std::memory_order_relaxed) / (count_ - 1)); }

 private:
  const int count_;
  const Clock::time_point made_ = Clock::now();
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> round_{0};
  std::atomic<Clock::rep> stalled_{0};
  Signal turned_;
};

// Threads of the pool, held during the lifetime of this object. The pool serves one team at a time: a team that another
// thread of the program requests meanwhile consists of the calling thread alone. So does every team for a while after
// threads had to wait for processors that other programs were using. Results do not depend on a team's size.
class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }
  Barrier& barrier() { return barrier_; }

  // Calls work(index) for every index below size(), 0 on the calling thread; returns when all are done. work must not
  // throw. Throws std::system_error if that many threads cannot be started.
  template <class F> void run(F&& work) {
    start([](void* context, int index) { (*static_cast<std::remove_reference_t<F>*>(context))(index); }, &work);
  }

 private:
  void start(void (*work)(void*, int), void* context);
  int size_;
  Barrier barrier_;
};

// Memory for one call. The calling thread keeps it for its next call, to which it is then already mapped.
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
