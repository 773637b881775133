// Attention in f64 over keys and values as they are decoded: what every table is measured against.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tests/quant/section.h"

namespace quire::test {

// Rows of keys and values in f64, in the spaces of the query and of the output.
struct Tokens {
  uint32_t dim;
  std::vector<double> keys;    // [tokens][dim]
  std::vector<double> values;  // [tokens][dim]
};

// Appends the tokens of a section as the scalar table decodes them, sinks in their place.
void append_section(const EncodedSection& section, Tokens* tokens);

struct Truth {
  std::vector<double> output;  // [dim], zeros when nothing is visible
  double log_sum_exp;          // natural
};

// Softmax attention of one row over tokens [begin, end). q holds the softmax scale times log2(e).
Truth attend_f64(std::span<const double> q, const Tokens& tokens, size_t begin, size_t end);

// Relative L2 error of a row; the absolute norm when the truth is zero.
double relative_error(const float* actual, const std::vector<double>& expected);

}  // namespace quire::test
