// Vectorized exponential (of arguments <= 0), sigmoid and tanh.
//
//   exp(y) = 2^k (1 + q),   k = round(y / ln 2),   q = expm1(y - k ln 2), a polynomial on |f| <= ln(2)/2
//
// Largest error over dense grids (tests/test_native.py): 2.7 units in the last place of the exact value, with and
// without fused multiply-add. NaN gives NaN and an infinity gives the limit. Sigmoids below the smallest normal number
// may be 0.
#pragma once

#include <type_traits>

#include "simd.h"

namespace headgate {
namespace HEADGATE_LEVEL {

// c: the coefficients of q = f + f^2 (c[0] + c[1] f + ...) with the smallest largest error on |f| <= ln(2)/2 (found
// with the Remez algorithm): 3e-9 for float, 5e-20 for double.
template <class T> struct Exponential;
template <> struct Exponential<float> {
  // 1.5 * 2^23: adding it rounds to an integer in the low bits; 127 is the bias of the exponent.
  static constexpr float round = 12582912.0f + 127;
  static constexpr float ln2_high = 0x1.62e400p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float lowest = -88.0296919f;  // -127 ln 2: 2^k becomes 0
  static constexpr int mantissa = 23, terms = 5;
  static constexpr float c[] = {0.5000000095f, 0.1666651884f, 0.04166620579f, 0.008368889352f, 0.001395049183f};
};
template <> struct Exponential<double> {
  static constexpr double round = 6755399441055744.0 + 1023;  // 1.5 * 2^52, and the bias
  static constexpr double ln2_high = 0x1.62e42fefa3800p-1, ln2_low = 0x1.ef35793c76730p-45;
  static constexpr double lowest = -709.08956571282409;  // -1023 ln 2
  static constexpr int mantissa = 52, terms = 11;
  static constexpr double c[] = {0.5, 0.16666666666666684, 0.041666666666666724, 0.0083333333333167380,
                                 0.0013888888888858550, 0.00019841269897060359, 2.4801587373539681e-5,
                                 2.7557234235535262e-6, 2.7557233523463228e-7, 2.5112240237239662e-8,
                                 2.0926894773110787e-9};
};

// y <= 0 -> scale = 2^k, or 0 below the normal numbers, and q, with exp(y) = scale * (1 + q).
template <class T> struct Split {
  Vec<T> scale, q;
};
template <class T> HEADGATE_INLINE Split<T> split_exponential(Vec<T> y) {
  using E = Exponential<T>;
  y = larger(broadcast(E::lowest), y);  // keeps a NaN
  const Vec<T> shifted = fma(y, broadcast(T(1.4426950408889634)), broadcast(E::round));
  const Vec<T> k = shifted - E::round;
  Vec<T> f = fma(k, broadcast(-E::ln2_high), y);
  f = fma(k, broadcast(-E::ln2_low), f);
  const Vec<T> g = f * f;
  Vec<T> even = broadcast(E::c[(E::terms - 1) / 2 * 2]), odd = broadcast(E::c[E::terms / 2 * 2 - 1]);
#pragma GCC unroll 8
  for (int n = (E::terms - 1) / 2 * 2 - 2; n >= 0; n -= 2) even = fma(even, g, broadcast(E::c[n]));
#pragma GCC unroll 8
  for (int n = E::terms / 2 * 2 - 3; n > 0; n -= 2) odd = fma(odd, g, broadcast(E::c[n]));
  const Vec<T> q = fma(fma(odd, f, even), g, f);
  return {Vec<T>(Bits<T>(shifted) << E::mantissa), q};
}

template <class T> HEADGATE_INLINE Vec<T> exponential(Vec<T> y) {  // y <= 0
  const auto [scale, q] = split_exponential<T>(y);
  return fma(scale, q, scale);
}

template <class T> HEADGATE_INLINE Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> e = exponential<T>(-absolute<T>(x)), one = broadcast(T(1));
  return (Bits<T>(x) < 0 ? e : one) / (one + e);
}

template <class T> HEADGATE_INLINE Vec<T> tanh(Vec<T> x) {
  const auto [scale, q] = split_exponential<T>(T(-2) * absolute<T>(x));
  const Vec<T> e = fma(scale, q, scale - T(1));  // expm1(-2|x|), from -1 to 0
  return copy_sign<T>(e / (T(2) + e), x);
}

}  // namespace HEADGATE_LEVEL
}  // namespace headgate
