// Runs forward and backward from several threads of the program at once, with teams of 1 to 4 threads and both ways of
// dividing the work. Every result must equal that of a single thread to the bit. `make sanitize` runs this test with
// -fsanitize=thread.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "../headgate.h"

namespace {

constexpr int most_threads = 4, callers = 4, rounds = 2;

struct Shape {
  const char* name;
  int64_t T, B, I, H;
  bool before, reverse, ids, lengths, resets, invariant = true;
};

// With at least 8 rows per thread, the threads divide the rows; otherwise, with at least two vectors of hidden units per
// thread, the hidden units. With 130 hidden units, backward splits 1200 tokens into several chunks. 12 ids out of 50
// take the path for few ids.
constexpr Shape shapes[] = {
    {"many rows", 30, 40, 5, 11, false, false, false, false, false},
    {"many rows, before", 4, 37, 9, 18, true, true, false, true, true},
    {"many rows, ids", 30, 40, 7, 9, false, true, true, true, true},
    {"few rows", 5, 3, 6, 136, false, false, false, false, false},
    {"few rows, before", 5, 4, 6, 137, true, false, false, true, true},
    {"few rows, ids", 5, 3, 6, 140, false, true, true, true, true},
    {"few rows, few ids, before", 3, 4, 50, 136, true, true, true, false, true},
    {"few rows, several chunks", 260, 5, 2, 130, false, false, false, true, true},
    {"on tiles", 30, 40, 5, 130, false, false, false, false, false, false},
    {"on tiles, before", 4, 37, 9, 137, true, true, false, true, true, false},
};

template <class T> struct Functions;
template <> struct Functions<float> {
  static constexpr auto forward = headgate_forward_float;
  static constexpr auto backward = headgate_backward_float;
};
template <> struct Functions<double> {
  static constexpr auto forward = headgate_forward_double;
  static constexpr auto backward = headgate_backward_double;
};

template <class T> class Problem {
 public:
  explicit Problem(const Shape& shape) : shape_(shape) {
    const int64_t t = shape.T, B = shape.B, I = shape.I, H = shape.H;
    x_ = draw(t * B * I), h0_ = draw(B * H), weight_ih_ = draw(3 * H * I), weight_hh_ = draw(3 * H * H, 0.1);
    bias_ih_ = draw(3 * H), bias_hh_ = draw(3 * H), reset_state_ = draw(H);
    d_states_ = draw(t * B * H), d_last_ = draw(B * H), d_gates_ = draw(gates_size(t));
    for (int64_t i = 0; i < t * B; ++i) ids_.push_back(int64_t(random_() % uint64_t(I)));
    for (int64_t i = 0; i < t * B; ++i) resets_.push_back(random_() % 4 == 0);
    for (int64_t b = 0; b < B; ++b) lengths_.push_back(int64_t(random_() % uint64_t(t + 1)));
  }

  // All outputs and gradients, concatenated.
  std::vector<T> run(int threads) const {
    const int64_t t = shape_.T, B = shape_.B, I = shape_.I, H = shape_.H;
    const int64_t sizes[] = {t * B * H, B * H, gates_size(t), t * B * I, B * H, 3 * H * I, 3 * H * H, 3 * H, 3 * H, B * H};
    int64_t size = 0;
    for (const int64_t n : sizes) size += n;
    std::vector<T> results(static_cast<size_t>(size));
    T *at = results.data(), *outputs[10];
    for (int i = 0; i < 10; ++i) outputs[i] = at, at += sizes[i];

    headgate_gru g{};
    g.T = t, g.B = B, g.I = I, g.H = H;
    g.reset = shape_.before ? HEADGATE_RESET_BEFORE : HEADGATE_RESET_AFTER;
    g.reverse = shape_.reverse, g.threads = threads, g.one_hot = shape_.ids, g.invariant = shape_.invariant;
    g.x = shape_.ids ? nullptr : x_.data(), g.x_t = B * I, g.x_b = I;
    g.ids = shape_.ids ? ids_.data() : nullptr;
    g.h0 = h0_.data(), g.weight_ih = weight_ih_.data(), g.weight_hh = weight_hh_.data();
    g.bias_ih = bias_ih_.data(), g.bias_hh = bias_hh_.data();
    g.lengths = shape_.lengths ? lengths_.data() : nullptr;
    g.resets = shape_.resets ? resets_.data() : nullptr;
    g.reset_state = reset_state_.data();
    g.states = outputs[0], g.last = outputs[1], g.gates = outputs[2];
    headgate_gru_gradients d{};
    d.d_states = d_states_.data(), d.d_last = d_last_.data(), d.d_gates = d_gates_.data();
    d.d_x = shape_.ids ? nullptr : outputs[3], d.d_h0 = outputs[4];
    d.d_weight_ih = outputs[5], d.d_weight_hh = outputs[6], d.d_bias_ih = outputs[7], d.d_bias_hh = outputs[8];
    d.d_reset_state = outputs[9];
    if (Functions<T>::forward(&g) || Functions<T>::backward(&g, &d)) {
      std::fprintf(stderr, "%s: a call failed\n", shape_.name);
      std::abort();
    }
    if (shape_.before)  // the fourth part of the gates is undefined
      for (int64_t i = 0; i < t * B; ++i) std::memset(outputs[2] + (i * 4 + 3) * H, 0, size_t(H) * sizeof(T));
    return results;
  }

 private:
  int64_t gates_size(int64_t t) const {
    constexpr int64_t lanes = HEADGATE_GATE_LANES;
    return t * ((shape_.H + lanes - 1) / lanes) * shape_.B * 4 * lanes;
  }
  std::vector<T> draw(int64_t n, double scale = 0.5) {
    std::vector<T> values;
    for (int64_t i = 0; i < n; ++i) values.push_back(T(scale * (double(random_()) / 2147483648.0 - 1)));
    return values;
  }

  Shape shape_;
  std::mt19937 random_{1};
  std::vector<T> x_, h0_, weight_ih_, weight_hh_, bias_ih_, bias_hh_, reset_state_, d_states_, d_last_, d_gates_;
  std::vector<int64_t> ids_, lengths_;
  std::vector<uint8_t> resets_;
};

template <class T> bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// Returns the number of results that differ from those of a single thread.
template <class T> int check(const Shape& shape, const char* type) {
  const Problem<T> problem(shape);
  const std::vector<T> expected = problem.run(1);
  int different = 0;
  for (int threads = 2; threads <= most_threads; ++threads)
    for (int round = 0; round < rounds; ++round) different += !same(problem.run(threads), expected);
  int of_caller[callers] = {};
  std::vector<std::thread> running;
  for (int caller = 0; caller < callers; ++caller)
    running.emplace_back([&, caller] {
      for (int i = 0; i < most_threads; ++i)
        of_caller[caller] += !same(problem.run(1 + (caller + i) % most_threads), expected);
    });
  for (std::thread& thread : running) thread.join();
  for (const int n : of_caller) different += n;
  if (different) std::printf("level %d, %s, %s: %d results differ\n", headgate_level(), shape.name, type, different);
  return different;
}

}  // namespace

int main() {
  int different = 0, levels = 0;
  for (int32_t level = 0; level <= 3; ++level) {
    if (headgate_use_level(level) != HEADGATE_OK) continue;
    ++levels;
    for (const Shape& shape : shapes) different += check<float>(shape, "float") + check<double>(shape, "double");
  }
  const int calls = levels * int(sizeof shapes / sizeof *shapes) * 2 * (1 + (most_threads - 1) * rounds + callers * most_threads);
  std::printf("threads_test: %d levels, %d calls of forward and backward, %d results differ\n", levels, calls, different);
  return different != 0;
}
