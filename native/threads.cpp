// The pool of threads, or an OpenMP runtime instead if one is loaded, and the memory of a call.
#include "threads.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace headgate {
namespace {

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until done() for about `time`; false on timeout.
template <class F> bool spin(std::chrono::microseconds time, F done) {
  for (int i = 0; i < 64; ++i) {
    if (done()) return true;
    relax();
  }
  const auto end = std::chrono::steady_clock::now() + time;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

constexpr auto hiccup = std::chrono::microseconds(200);  // shorter waits are ignored

class Pool {
 public:
  std::mutex in_use;  // held by the team

  void run(int size, void (*work)(void*, int), void* context, Barrier& end) {
    while (helpers_ < size - 1) {
      std::thread(&Pool::help, this, helpers_ + 1, round_.load()).detach();  // throws std::system_error
      ++helpers_;
    }
    work_ = work;
    context_ = context;
    size_ = size;
    end_ = &end;
    left_.store(helpers_, std::memory_order_relaxed);
    round_.fetch_add(1);
    begun_.announce();
    work(context, 0);
    end.wait();
    ended_.wait([&] { return left_.load() == 0; });
  }

 private:
  void help(int index, uint32_t seen) {
    for (;;) {
      begun_.wait([&] { return round_.load() != seen; });
      ++seen;
      if (index < size_) {
        work_(context_, index);
        end_->wait();
      }
      if (left_.fetch_sub(1) == 1) ended_.announce();
    }
  }

  int helpers_ = 0;
  void (*work_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int size_ = 0;
  Barrier* end_ = nullptr;
  std::atomic<int> left_{0};
  std::atomic<uint32_t> round_{0};
  Signal begun_, ended_;
};

// Detects whether a team's threads get the processors they need. If other programs keep the processors busy, some thread
// of a team is nearly always waiting for its turn, and the rest for it at the next barrier: one thread alone is faster.
class Crowd {
 public:
  // True if teams of several threads are of no use at the moment.
  bool dense() const { return now() < alone_until_.load(std::memory_order_relaxed); }

  // Learns from the times of a team. Only the team that holds the pool calls this, so calls do not overlap.
  void learn(int size, Clock::duration took, Clock::duration stalled) {
    took_ += took;
    stalled_ += std::min(stalled, took);
    // Beyond this, one thread that does all the work and never waits is no slower.
    if (stalled_ > enough && stalled_ > took_ / size * (size - 1)) {
      alone_until_.store(now() + alone_.count(), std::memory_order_relaxed);
      alone_ = std::min(alone_ * 4, longest);
      took_ = stalled_ = Clock::duration(0);
    } else if (took_ > window) {
      if (stalled_ < took_ / 10) alone_ = std::max(alone_ / 2, shortest);
      took_ /= 2;
      stalled_ /= 2;
    }
  }

 private:
  static Clock::rep now() { return Clock::now().time_since_epoch().count(); }
  static constexpr Clock::duration enough = std::chrono::milliseconds(1), window = std::chrono::milliseconds(20),
                                   shortest = std::chrono::milliseconds(50), longest = std::chrono::seconds(1);
  std::atomic<Clock::rep> alone_until_{std::numeric_limits<Clock::rep>::min()};
  Clock::duration alone_ = shortest, took_{0}, stalled_{0};
};
Crowd crowd;

Pool* pool = new Pool;  // never freed: its threads outlive every destructor
bool forked = false;

// A forked process has none of its parent's threads, the pool's or OpenMP's; OpenMP would wait for its own forever.
[[maybe_unused]] const int watched = pthread_atfork(nullptr, nullptr, [] {
  pool = new Pool;
  forked = true;
});

// If an OpenMP runtime is loaded, as by PyTorch, its threads do the work: after each parallel operation they spin for
// milliseconds, waiting for the next, and threads of our own would compete with them for the processors.
struct OpenMP {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
  int (*thread)();
  int (*threads)();
};
const OpenMP* open_mp() {
  if (forked) return nullptr;
  static OpenMP found;
  static std::atomic<bool> complete{false};
  if (complete.load(std::memory_order_acquire)) return &found;
  static std::mutex once;
  std::lock_guard<std::mutex> lock(once);
  found.parallel = reinterpret_cast<decltype(found.parallel)>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  found.thread = reinterpret_cast<decltype(found.thread)>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
  found.threads = reinterpret_cast<decltype(found.threads)>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
  complete.store(found.parallel && found.thread && found.threads, std::memory_order_release);
  return complete ? &found : nullptr;
}

// Returns false, with nothing done, if OpenMP does not provide that many threads (as inside a parallel region).
bool run_with_open_mp(int size, void (*work)(void*, int), void* context, Barrier& end) {
  const auto called = Clock::now();
  struct Call {
    const OpenMP* runtime;
    int size;
    void (*work)(void*, int);
    void* context;
    Barrier* end;
    bool done;
    Clock::time_point begun, ended;
  } call{open_mp(), size, work, context, &end, false, {}, {}};
  if (!call.runtime) return false;
  call.runtime->parallel(
      [](void* p) {
        Call& call = *static_cast<Call*>(p);
        if (call.runtime->threads() != call.size) return;
        const int index = call.runtime->thread();
        if (index == 0) call.begun = Clock::now();
        call.work(call.context, index);
        call.end->wait();  // OpenMP's own wait, which follows, would spin for milliseconds before sleeping
        if (index == 0) call.done = true, call.ended = Clock::now();
      },
      &call, unsigned(size), 0);
  if (call.done) end.delayed(call.begun - called + (Clock::now() - call.ended));
  return call.done;
}

struct Kept {
  char* memory = nullptr;
  size_t size = 0;
  size_t wanted = 0;  // by the current call
  std::vector<void*> extra;
  ~Kept() { std::free(memory); }
};
thread_local Kept kept;

constexpr size_t most_kept = size_t(256) << 20, huge_page = size_t(2) << 20;

// Allocates memory to keep; large pieces in huge pages, if the system has them.
char* allocate(size_t size) {
  if (size < huge_page) return static_cast<char*>(std::aligned_alloc(64, size));
  size = (size + huge_page - 1) / huge_page * huge_page;
  void* memory = std::aligned_alloc(huge_page, size);
#if defined(MADV_HUGEPAGE)
  if (memory) madvise(memory, size, MADV_HUGEPAGE);
#endif
  return static_cast<char*>(memory);
}

}  // namespace

template <class F> void Signal::wait(F done) {
  if (spin(std::chrono::microseconds(50), done)) return;
  std::unique_lock<std::mutex> lock(sleep_);
  sleepers_.fetch_add(1);  // before done() is called again, so that whoever changes the variable sees the sleeper
  wake_.wait(lock, done);
  sleepers_.fetch_sub(1);
}

void Signal::announce() {
  if (!sleepers_.load()) return;
  sleep_.lock();  // a sleeper whose done() was just false holds it until it sleeps
  sleep_.unlock();
  wake_.notify_all();
}

void Barrier::wait() {
  const uint32_t round = round_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1);
    turned_.announce();
    return;
  }
  const auto turned = [&] { return round_.load() != round; };
  for (int i = 0; i < 256; ++i) {
    if (turned()) return;
    relax();
  }
  const auto began = Clock::now();
  turned_.wait(turned);
  // All parts are of equal size: a thread that takes twice as long as the parts before was not running all the time.
  const auto took = Clock::now() - began, usual = (began - made_ - stalled()) / (round + 1);
  if (took > hiccup && took > usual) stalled_.fetch_add((took - usual).count(), std::memory_order_relaxed);
}

void Barrier::delayed(Clock::duration time) {
  if (time > hiccup) stalled_.fetch_add(time.count() * (count_ - 1), std::memory_order_relaxed);
}

Team::Team(int threads)
    : size_(threads > 1 && !crowd.dense() && pool->in_use.try_lock() ? threads : 1), barrier_(size_) {}

Team::~Team() {
  if (size_ == 1) return;
  crowd.learn(size_, Clock::now() - barrier_.made(), barrier_.stalled());
  pool->in_use.unlock();
}

void Team::start(void (*work)(void*, int), void* context) {
  if (size_ == 1)
    work(context, 0);
  else if (!run_with_open_mp(size_, work, context, barrier_))
    pool->run(size_, work, context, barrier_);
}

void* Workspace::bytes(size_t size) {
  size = (size + 63) / 64 * 64;
  kept.wanted += size;
  if (used_ + size <= kept.size) {
    void* at = kept.memory + used_;
    used_ += size;
    return at;
  }
  kept.extra.reserve(kept.extra.size() + 1);
  void* block = std::aligned_alloc(64, std::max(size, size_t(64)));
  if (!block) throw std::bad_alloc();
  kept.extra.push_back(block);
  return block;
}

// If this call needed several pieces of memory, allocates one of their total size for the next call.
Workspace::~Workspace() {
  for (void* block : kept.extra) std::free(block);
  if (!kept.extra.empty() && kept.wanted <= most_kept) {
    std::free(kept.memory);
    kept.memory = allocate(kept.wanted);
    kept.size = kept.memory ? kept.wanted : 0;
  }
  kept.extra.clear();
  kept.wanted = 0;
}

}  // namespace headgate
