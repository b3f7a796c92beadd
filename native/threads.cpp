// The pool of threads, the OpenMP runtime in its place where one is loaded, and the memory of a call.
#include "threads.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
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

// Spins until done() for about this long; false when the time is up.
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

class Pool {
 public:
  std::mutex in_use;  // held by the team

  void run(int size, void (*work)(void*, int), void* context) {
    while (helpers_ < size - 1) {
      std::thread(&Pool::help, this, helpers_ + 1, round_.load()).detach();  // throws std::system_error
      ++helpers_;
    }
    work_ = work;
    context_ = context;
    size_ = size;
    left_.store(helpers_, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(sleep_);  // a helper either sees the new round or is woken by it
      round_.fetch_add(1);
    }
    wake_.notify_all();
    work(context, 0);
    while (!spin(std::chrono::microseconds(100), [&] { return left_.load(std::memory_order_acquire) == 0; }))
      sched_yield();
  }

 private:
  void help(int index, uint32_t seen) {
    for (;;) {
      const auto news = [&] { return round_.load(std::memory_order_acquire) != seen; };
      if (!spin(std::chrono::microseconds(50), news)) {
        std::unique_lock<std::mutex> lock(sleep_);
        wake_.wait(lock, news);
      }
      ++seen;
      if (index < size_) work_(context_, index);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }

  int helpers_ = 0;
  void (*work_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int size_ = 0;
  std::atomic<int> left_{0};
  std::atomic<uint32_t> round_{0};
  std::mutex sleep_;
  std::condition_variable wake_;
};

Pool* pool = new Pool;  // never freed: its threads outlive every destructor
bool forked = false;

// A fork has none of its parent's threads, the pool's or OpenMP's. An OpenMP runtime would wait for its own for ever.
[[maybe_unused]] const int watched = pthread_atfork(nullptr, nullptr, [] {
  pool = new Pool;
  forked = true;
});

// Where an OpenMP runtime is loaded, as by PyTorch, its threads do the work: for milliseconds after each parallel
// operation they wait actively for the next, and threads of our own would have to share the processors with them.
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

// False, with nothing done, where OpenMP does not give that many threads (inside a parallel region, say).
bool run_with_open_mp(int size, void (*work)(void*, int), void* context) {
  struct Call {
    const OpenMP* runtime;
    int size;
    void (*work)(void*, int);
    void* context;
    bool done;
  } call{open_mp(), size, work, context, false};
  if (!call.runtime) return false;
  call.runtime->parallel(
      [](void* p) {
        Call& call = *static_cast<Call*>(p);
        if (call.runtime->threads() != call.size) return;
        const int index = call.runtime->thread();
        call.work(call.context, index);
        if (index == 0) call.done = true;
      },
      &call, unsigned(size), 0);
  return call.done;
}

struct Kept {
  char* memory = nullptr;
  size_t size = 0;
  size_t wanted = 0;  // by the call under way
  std::vector<void*> extra;
  ~Kept() { std::free(memory); }
};
thread_local Kept kept;

constexpr size_t most_kept = size_t(256) << 20, huge_page = size_t(2) << 20;

// Memory that is kept: large pieces in huge pages, where the system has them.
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

void Barrier::wait() {
  const uint32_t round = round_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  while (!spin(std::chrono::microseconds(50), [&] { return round_.load(std::memory_order_acquire) != round; }))
    sched_yield();
}

Team::Team(int threads) : size_(threads > 1 && pool->in_use.try_lock() ? threads : 1), barrier_(size_) {}

Team::~Team() {
  if (size_ > 1) pool->in_use.unlock();
}

void Team::start(void (*work)(void*, int), void* context) {
  if (size_ == 1)
    work(context, 0);
  else if (!run_with_open_mp(size_, work, context))
    pool->run(size_, work, context);
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

// What this call needed in several pieces, the next one finds in one.
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
