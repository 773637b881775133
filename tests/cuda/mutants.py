#!/usr/bin/env python3
"""Changes the kernels one place at a time and demands that the tests notice.

usage: mutants.py [--changed-since REVISION] ROOT BUILD [NAME...]

ROOT is the repository, BUILD a Release build of it (for libemu.a and the scalar reference). Each mutant is compiled
for head_dim 64 and the slice of the suite that builds with sanitizers run is run, too. Prints one line per mutant and
exits with 1 when one survives that is not listed as equivalent. Names choose mutants by a part of their name,
--changed-since those of files that differ from a revision. A mutant that takes ten times as long as the unchanged
kernels do is killed by timeout, and said to be.
"""

import argparse
import enum
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# (name, file, what stands there, what stands there in the mutant)
MUTANTS = [
    ("range ignores the largest", "encode.cu", "high = fmaxf(high, value);", "high = fmaxf(high, low);"),
    ("codes without the centre", "encode.cu", "scales.scale_inverse[group]), centre));", "scales.scale_inverse[group]), 0.0F));"),
    ("codes are not clamped", "encode.cu", "fminf(fmaxf(code, 0.0F), last)", "fmaxf(code, 0.0F)"),
    ("sinks are encoded", "encode_block.cuh", "token < first ? 0U : code_at", "token < 0U ? 0U : code_at"),
    ("midpoint keeps its sign of zero", "numbers.cuh", "bits == 0x8000U ? 0U : bits", "bits"),
    ("mean divides by all tokens", "encode_block.cuh", "static_cast<float>(valid)", "static_cast<float>(job.shape.tokens)"),
    ("another order of sums", "encode_block.cuh", "for (unsigned half = 8; half > 0; half /= 2)", "for (unsigned half : {1U, 2U, 4U, 8U})"),
    ("no barrier after the groups", "encode.cu", "    value_groups(job, scales);\n  }\n  __syncthreads();", "    value_groups(job, scales);\n  }"),
    ("no barrier after the mean", "mean_codes.cuh", "    codes[c] = static_cast<uint8_t>(code);\n  }\n  __syncthreads();", "    codes[c] = static_cast<uint8_t>(code);\n  }"),
    ("padding is not cleared", "encode_block.cuh", "i += blockDim.x) section[i] = 0;", "i += blockDim.x) section[i] = 1;"),
    ("decoding without the exponent", "decoded.cuh", "__fmul_rn(value, power_of_two(static_cast<int32_t>(s.param)))", "value"),
    ("decoding with another scale", "decoded.cuh", "largest + scale_code - 255", "largest + scale_code - 254"),
    ("merge of unweighted sums", "merge.cu", "l += part * weight;", "l += part;"),
    ("butterflies with the wrong sign", "merge.cu", "__fsub_rn(other, value)", "__fsub_rn(value, other)"),
    ("no barrier between butterflies", "merge.cu", "__fsub_rn(other, value);\n    __syncthreads();", "__fsub_rn(other, value);"),
    ("lower bytes forgotten", "key_scores.cuh", "sum[k / 4] * 256 + sum[2 + k / 4]", "sum[k / 4] * 256"),
    ("keys without their mean", "key_scores.cuh", "return static_cast<float>(sums[0][0] * 256 + sums[0][2])", "return 0.0F * static_cast<float>(sums[0][0])"),
    ("keys without the centre", "key_scores.cuh", "(key_centre(bits) *", "(0.0F * key_centre(bits) *"),
    ("values without the centre", "value_sums.cuh", "sum[0] * 256 + sum[2] - centre[tile]", "sum[0] * 256 + sum[2]"),
    ("values without their mean", "value_sums.cuh", "+= weights[tile] * code;", "+= 0.0F * code;"),
    ("weights of masked tokens", "warp_rows.cuh", "k >= of_thread ? exp2_approx(scores[k] - m) : 0.0F", "exp2_approx(scores[k] - m)"),
    ("sums keep the old maximum", "warp_rows.cuh", "    row.l *= keep;\n    row.mid *= keep;", "    row.mid *= keep;"),
    ("midpoints keep the old maximum", "warp_rows.cuh", "    row.l *= keep;\n    row.mid *= keep;", "    row.l *= keep;"),
    ("a sink counts four times", "warp_rows.cuh", "(w.at.i == 0 ? weight : 0.0F)", "weight"),
    ("levels of the wrong half", "operands.cuh", "(word >> 1 & 0x44444444U)", "(word & 0x44444444U)"),
    ("3-bit codes without their top bit", "operands.cuh", "(top & 0x02020202U) << 5", "(top & 0x02020202U) << 6"),
    ("warps merge without a barrier", "attend_kernel.cuh", "    __syncthreads();\n    if (warp == other)", "    if (warp == other)"),
    ("positive levels of every code", "staged_product.cuh", "word ^ 0x88888888U", "word"),
    ("levels one too small", "staged_rows.cuh", "product += queries.sum[tile]", "product += 0.0F * queries.sum[tile]"),
    ("a slot is filled while it is read", "staged_kernel.cuh", "copy_async_wait<Form::kSlots - 1>", "copy_async_wait<Form::kSlots>"),
    ("the slot that is waited for is filled", "staged_kernel.cuh", "(used_ == 0 ? Form::kSlots - 1 : used_ - 1)", "used_"),
    ("parameters of the section before", "staged_kernel.cuh", "    load_params();\n    return wait();", "    return wait();"),
    ("sinks of every run", "staged_kernel.cuh", "if (begin + warp == 0 && end > 0)", "if (warp == 0 && end > 0)"),
    ("sinks of a head without pages", "staged_kernel.cuh", "if (begin + warp == 0 && end > 0)", "if (begin + warp == 0)"),
    ("sinks that are attended twice", "staged_kernel.cuh", "return s == 0 ? max(seen, static_cast<int>(args.format.sink_tokens)) : seen;", "return seen;"),
    ("sinks of every run of any codecs", "attend_kernel.cuh", "if (first_section == 0 && end > 0)", "if (first_section == begin && end > 0)"),
    ("sinks of a head without pages of any codecs", "attend_kernel.cuh", "if (first_section == 0 && end > 0)", "if (first_section == 0)"),
    ("staged tokens are not masked", "staged_rows.cuh", "% 8 < first) scores[k] = -INFINITY", "% 8 < 0) scores[k] = -INFINITY"),
    ("two levels above 0 without their signs", "staged_product.cuh", "return {low - 1, high - 1};", "return {low, high};"),
    ("a level of 0 with the sign of those above", "staged_product.cuh", "if (low > 0) return", "if (low >= 0) return"),
    ("two levels below 0 without their signs", "staged_product.cuh", "high < 0 ? low : low - 1", "low - 1"),
    ("levels of the other side", "staged_kernel.cuh", "stored_level<Form::kValue>(format, Side::kValue,", "stored_level<Form::kValue>(format, Side::kKey,"),
    ("staged keys without the centre", "staged_query.cuh", "query.scale * (kShort *", "0.0F * (kShort *"),
    ("staged keys without their midpoints", "staged_query.cuh", "mid_dot += x[b][k] * mid[k];", "mid_dot += 0.0F * mid[k];"),
    ("a scale that vanishes", "staged_query.cuh", "* up, 1e-37F)", "* up, 0.0F)"),
    ("queries beyond the last row", "staged_query.cuh", "size_t{min(row, w.last_row)}", "size_t{row}"),
    ("weights in the memory of another warp", "staged_query.cuh", "kOperands > kWeights ? kOperands : kWeights", "kOperands"),
    ("scores without outliers", "staged_outliers.cuh", "product += load_as<float>(row", "product += 0.0F * load_as<float>(row"),
    ("outliers of keys without the exponent", "staged_outliers.cuh", "queries.tiles[tile].scale = up;", "queries.tiles[tile].scale = 1.0F;"),
    ("outliers of values without the exponent", "staged_outliers.cuh", "make_float4(four[k] * up,", "make_float4(four[k],"),
    ("outliers of the lane beside", "staged_outliers.cuh", "0x4440U : 0x4442U", "0x4442U : 0x4440U"),
    ("groups beyond the last", "staged_outliers.cuh", "min(permute_bytes(pair, 0, k % 2 == 0 ? 0x4440U : 0x4442U), kGroups - 1)", "permute_bytes(pair, 0, k % 2 == 0 ? 0x4440U : 0x4442U)"),
    ("an offset that is added twice", "staged_outliers.cuh", "queries.tiles[tile].offset = 0.0F;", ""),
    ("only one warp's state", "staged_kernel.cuh", "sum += l[warp * rows + row] * keep;", "sum += l[row] * keep;"),
    ("quads of rotated keys change places", "encode_registers.cuh", "(job.lane % kQuads)", "((job.lane + 1) % kQuads)"),
    ("means of rotated sections by all tokens", "section_means.cuh", "static_cast<float>(valid)", "static_cast<float>(job.shape.tokens)"),
    ("levels of the next code", "level_search.cuh", "ceil_twice(y) + kLargest", "ceil_twice(y) + kLargest + 1"),
    ("every other page", "copy.cu", "page += gridDim.x", "page += 2 * gridDim.x"),
    ("the seam is not where it was found", "trellis_search.cuh", "search.open_only(state);", "search.open_only(0);"),
    ("a way of equals that is not the first", "trellis_search.cuh", "min(best, cost)", "(best / kWays < cost / kWays ? best : cost)"),
    ("one chain after the other without its ring", "decoded.cuh", "(place + chain - before + i) % chain", "(place < before ? i : place - before + i)"),
    ("scales of tokens that have none", "encode_trellis.cu", "place.scales[t] = none ? 0.0F : scale;", "place.scales[t] = scale;"),
    ("lanes are searched before targets stand", "encode_trellis.cu", "    place.energies[t] = energy;\n  }\n  __syncthreads();", "    place.energies[t] = energy;\n  }"),
    ("codes are overwritten while they are read", "encode_trellis.cu", "lane - first];\n    });\n    __syncthreads();", "lane - first];\n    });"),
    ("a mantissa bit too many", "trellis_scales.cuh", "round_to_place(smallest, bits) >= kLastScaleCode", "round_to_place(smallest, bits) > kLastScaleCode"),
    ("targets beyond the last", "encode_tcq.cu", "fminf(fmaxf(y, -kLast), kLast)", "y"),
    ("targets are read before they stand", "encode_tcq.cu", "place.grid);\n  __syncthreads();", "place.grid);"),
    ("levels are read before they stand", "encode_tcq.cu", "place.levels);\n  }\n  __syncthreads();", "place.levels);\n  }"),
    ("scales are read before they stand", "encode_tcq.cu", "  __syncthreads();\n  const ScaleRange range", "  const ScaleRange range"),
    ("chains of values by their tokens alone", "encode_tcq.cu", "(job.token % 4 * (tokens / 4) + job.token / 4) * kDim", "job.token * kDim"),
    ("products of values as they come", "encode_tcq.cu", "power_of_two(-exponent), place.mean", "1.0F, place.mean"),
    ("tokens of no scale", "encode_tcq.cu", "const float inverse = none ? 0.0F : __fdiv_rn(1.0F, scale);", "const float inverse = __fdiv_rn(1.0F, scale);"),
    ("outliers stretch the range", "encode_nonuniform.cu", "if (groups.is_outlier(g, lane)) return;", ""),
    ("the last of the farthest", "encode_nonuniform.cu", "far == farthest && group <= other", "far == farthest && group >= other"),
    ("scales without their bounds", "nuq_group.cuh", "wanted < least ? least : most < wanted ? most : wanted", "wanted"),
    ("rests of what was not fitted", "encode_nonuniform.cu", "place.fitted_unit[g] = fitted.unit();", "place.fitted_unit[g] = ranged.unit();"),
    ("a value on a threshold is above it", "nuq_search.cuh", "at[step - 1] < value(0) ? step", "at[step - 1] < value(1) ? step"),
    ("eight values of one code", "nuq_search.cuh", "if (k > 0 && *at < value(k)) ++at;", ""),
    ("levels without their sign", "nuq_outliers.cuh", "static_cast<int8_t>(entry >> 8)", "static_cast<uint8_t>(entry >> 8)"),
    ("the last four of the farthest", "nuq_outliers.cuh", "if (farthest < most) which = i;", "if (farthest <= most) which = i;"),
    ("the last of four", "nuq_outliers.cuh", "four.x == farthest ? 0 : four.y == farthest ? 1 : four.z == farthest ? 2 : 3", "four.w == farthest ? 3 : four.z == farthest ? 2 : four.y == farthest ? 1 : 0"),
    ("the last part of the farthest", "nuq_outliers.cuh", "group <= other.group", "group >= other.group"),
    ("fours of channels in a row", "nuq_outliers.cuh", "best.group / 4 * (4 * kParts) + 4 * part + best.group % 4", "best.group + 4 * part"),
    ("outliers stretch the range of registers", "nuq_fold.cuh", "      if (left_out.holds(q, j)) continue;\n", ""),
    ("levels of outliers count", "nuq_fold.cuh", "        entry[j] &= 0xFFU;  // a level of 0\n", ""),
    ("values of outliers count", "nuq_fold.cuh", "        continue;           // the zeros that it would add change nothing\n", ""),
    ("outliers count as members", "nuq_fold.cuh", "4 * kQuads - left_out.count()", "4 * kQuads"),
    ("sums of keys in another order", "nuq_fold.cuh", "float& sum = sums[kKeys ? 0 : j];", "float& sum = sums[0];"),
    ("a token of two lanes", "nuq_fold.cuh", "    value = op(value, __shfl_xor_sync(kAllLanes, value, 2));\n", ""),
    ("quads of channels change places", "key_channels.cuh", "quad_of(q) << (kWidth * four);", "quad_of(q) << (kWidth * (kShare - 1 - four));"),
    ("halves of words that are kept", "key_channels.cuh", "upper ? words[2 * i] : words[2 * i + 1];", "upper ? words[2 * i + 1] : words[2 * i];"),
    ("a channel's sinks in its mean", "encode_nuq_keys.cu", "replace_sinks(section.first, 0.0F, tokens);", "replace_sinks(0, 0.0F, tokens);"),
    ("a channel's sinks in its deviation", "encode_nuq_keys.cu", "replace_sinks(section.first, mean, tokens);", "replace_sinks(0, mean, tokens);"),
    ("channels of nothing but outliers", "encode_nuq_keys.cu", "if (range.low > range.high) range = range_of<true>(tokens, sinks);", ""),
    ("codes of sinks", "encode_nuq_keys.cu", "codes.quad[q] &= ~(0xFFU << (8 * j));", "codes.quad[q] &= 0xFFFFFFFFU;"),
    ("sinks have outliers", "encode_nuq_keys.cu", "if (token < section.first) group = kNoGroup;", ""),
    ("distances of keys are read before they stand", "encode_nuq_keys.cu", "  __syncthreads();\n  const uint32_t token = threadIdx.x / Distances::kParts;", "  const uint32_t token = threadIdx.x / Distances::kParts;"),
    ("outliers of keys are read before they stand", "encode_nuq_keys.cu", "  __syncthreads();\n#pragma unroll\n  for (uint32_t w = 0; w < kWords; ++w) left_out", "#pragma unroll\n  for (uint32_t w = 0; w < kWords; ++w) left_out"),
    ("channels are read before they are folded", "encode_nuq_keys.cu", "  __syncthreads();\n  if (threadIdx.x % kParts != 0) return;", "  if (threadIdx.x % kParts != 0) return;"),
    ("sinks are as far out as others", "encode_nuq_values.cu", "if (job.token < job.first) spread = {1.0F, -1.0F};", ""),
    ("tokens of nothing but outliers", "encode_nuq_values.cu", "if (none) range = all;", ""),
    ("the first part alone", "encode_nuq_values.cu", "best.merge(place.candidates[other]);", ""),
    ("candidates are read before they stand", "encode_nuq_values.cu", "  place.candidates[threadIdx.x] = best;\n  __syncthreads();", "  place.candidates[threadIdx.x] = best;"),
    ("outliers of values are read before they stand", "encode_nuq_values.cu", "  __syncthreads();\n  left_out.bits[0]", "  left_out.bits[0]"),
    ("tokens are read before they are folded", "encode_nuq_values.cu", "  __syncthreads();\n  const uint32_t channel = threadIdx.x;\n  if (channel >= kDim) return;", "  const uint32_t channel = threadIdx.x;\n  if (channel >= kDim) return;"),
    ("outliers are not added", "decoded.cuh", "outlier_group(outlier, s.groups()) == group", "false"),
    ("queries are turned the other way", "attend_unfolded.cu", "c < half ? other * sine : -(other * sine)", "c < half ? -(other * sine) : other * sine"),
    ("sinks are taken for codes", "attend_unfolded.cu", "token < sinks ? sink_value", "token < 0U ? sink_value"),
    ("values before the keys are done with", "attend_unfolded.cu", "  const uint32_t dim = args.format.shape.dim;\n  __syncwarp();\n  for (uint32_t t = 0", "  const uint32_t dim = args.format.shape.dim;\n  for (uint32_t t = 0"),
    ("channels of keys with their sinks", "encode_uniform.cu", "if (t < job.first) continue;", ""),
    ("ranges are read before they stand", "encode_uniform.cu", "  place.high[threadIdx.x] = high;\n  __syncthreads();", "  place.high[threadIdx.x] = high;"),
    ("a range over half the channels", "encode_uniform.cu", "lanes < 4; lanes *= 2", "lanes < 2; lanes *= 2"),
    ("codes above the last", "encode_uniform.cu", "fminf(fmaxf(code, 0.0F), kLast)", "fmaxf(code, 0.0F)"),
    ("pairs of tokens the wrong way round", "encode_uniform.cu", "__byte_perm(even_token, odd_token, 0x5410U)", "__byte_perm(odd_token, even_token, 0x5410U)"),
    ("the scale of another side", "uniform_group.cuh", "is_key ? __fmul_rn(__fadd_rn(low, high), 0.5F)", "!is_key ? __fmul_rn(__fadd_rn(low, high), 0.5F)"),
    ("a tile without its means of keys", "prefill_rows.cuh", "mean_products[r] * (scale[r] * steps.x)", "0.0F * mean_products[r]"),
    ("means of keys in another order", "prefill_unpack.cu", "c % 4 / 2 * 4 + c % 2 * 2 + c % 8 / 4", "c % 8"),
    ("a tile without its means of values", "prefill_rows.cuh", "mma_bf16(d, a[tile], operand);", ""),
    ("worths of means that were counted already", "prefill_rows.cuh", "    even = odd = 0.0F;\n", ""),
    ("outputs that keep their excess", "prefill_rows.cuh", "excess[r] = -kSumFloat * of_owner(own_row.excess, r);", "excess[r] = 0.0F;"),
    ("an excess that is taken off twice", "prefill_rows.cuh", "own_row.excess = 0.0F;", ""),
    ("weights that are not brought to the maximum", "prefill_rows.cuh", "const float share = exp2_approx(top - own_row.m);", "const float share = 1.0F;"),
    ("rows that are not brought to the maximum", "prefill_rows.cuh", "if (__any_sync(kAllLanes, top > own_row.m ? 1 : 0) != 0) raise_rows", "if (false) raise_rows"),
    ("an excess that is not brought to the maximum", "prefill_rows.cuh", "own_row.excess * own_keep};", "own_row.excess};"),
    ("the sum of another row", "prefill_rows.cuh", "const float high = at.i == 2 ? of_rows[2] : of_rows[3];", "const float high = of_rows[2];"),
    ("sums that stay where they are", "prefill_rows.cuh", "const bool odd = at.i % 2 != 0;", "const bool odd = false;"),
    ("worths that are not brought to the maximum", "prefill_rows.cuh", "    shared.worths[2 * at.i + 1][row_of(r, at)] *= keep;\n", ""),
    ("sums of weights that are not brought to the maximum", "prefill_rows.cuh", "own_row = {m, own_row.l * own_keep,", "own_row = {m, own_row.l,"),
    ("the largest of half of the tokens", "prefill_rows.cuh", "y[k] = fmaxf(x[k], x[k + kTokensOfThread / 2]);", "y[k] = x[k];"),
    ("a section is overwritten while it is read", "attend_prefill.cu", "    copy_async_wait<kSlots - 2>();\n    __syncthreads();\n", "    copy_async_wait<kSlots - 2>();\n"),
    ("a section is read before it is there", "attend_prefill.cu", "copy_async_wait<kSlots - 2>", "copy_async_wait<kSlots - 1>"),
    ("a launch that forgets the one before", "attend_prefill.cu", "if (span.first > 0) {", "if (span.first > 1000000) {"),
    ("weights of the launch before", "attend_prefill.cu", "args.partials.l[own_partial], 0.0F};", "0.0F, 0.0F};"),
    ("the largest score of the launch before", "attend_prefill.cu", "fmaxf(args.partials.m[own_partial], kEmptyScore)", "kEmptyScore"),
    ("the means of the first group", "attend_prefill.cu", "size_t{s / kMeansAtOnce + 1} * Unpacked<kBlocks>::kGroupBytes", "Unpacked<kBlocks>::kGroupBytes"),
    ("a section is unpacked before it is there", "prefill_unpack.cu", "    copy_async_wait<0>();\n    __syncthreads();\n", "    copy_async_wait<0>();\n"),
    ("means of sections that are not there", "prefill_unpack.cu", "(kMeansAtOnce - count); i +=", "0U; i +="),
    ("sections of the first part of a run", "prefill_unpack.cu", "run * args.run_sections + span.first + first", "run * args.run_sections + first"),
    ("sinks of values that are copied", "encode.cu", "token < job.first ? make_float4(0, 0, 0, 0) : four", "four"),
    ("a tile's tokens are not masked", "prefill_rows.cuh", "k % 8 < of_thread) weights", "k % 8 < 0) weights"),
    ("the last row twice", "attend_prefill.cu", "if (row >= args.rows) continue;", "if (row > args.rows) continue;"),
    ("before the first row nothing", "trellis_operands.cuh", "last.x = last.x << 8 | last.x >> 24;", ""),
    ("rests of the other quad", "trellis_operands.cuh", "own << 4 & 0x30303030U", "own << 2 & 0x30303030U"),
    ("a trellis without all of its history", "trellis_operands.cuh", "(before >> 6 & 0x03030303U)", "(before >> 6 & 0x01010101U)"),
    ("levels of the even quad twice", "trellis_operands.cuh", "level(at.odd, 2 * r) * table.up", "level(at.even, 2 * r) * table.up"),
    ("the bound of the last block", "digests.cu", "max(peak, mean + reach)", "mean + reach"),
    ("the mass of the last block", "digests.cu", "add_mass(mass, here)", "here"),
    ("norms of queries without their second channel", "digests.cu", "squared(x, y)", "squared(x, 0.0)"),
    ("discs around the first key", "digest_fold.cuh", "fmaxf(farthest, squared(first(t) * steps - x", "fmaxf(farthest, squared(first(0) * steps - x"),
    ("a pair without its means of keys", "pair_rows.cuh", "less[half][s] = mean * (scale[half] * key_steps[s]);", "less[half][s] = 0.0F * mean * key_steps[s];"),
    ("a pair without its means of values", "pair_rows.cuh", "multiply_means(o[part], a,", "if (false) multiply_means(o[part], a,"),
    ("a pair's worths of another pair", "pair_rows.cuh", "if (at.i == waits) {", "if (at.i == 0) {"),
    ("a pair's rows that are not brought to the maximum", "pair_rows.cuh", "if (__any_sync(kAllLanes, raised ? 1 : 0) != 0) raise_rows", "if (false) raise_rows"),
    ("a pair's weights that are not brought to the maximum", "pair_rows.cuh", "const float share = exp2_approx(tops[half] - rows.m[half]);", "const float share = 1.0F;"),
    ("a pair's worths that are not brought to the maximum", "pair_rows.cuh", "    rows.worth[half][1] *= keep[half];\n", ""),
    ("a pair's sums before they are there", "pair_rows.cuh", "await_products<0>(sums, means);", "await_products<1>(sums, means);"),
    ("a pair's outputs before they are there", "pair_rows.cuh", "await_products<1>(sums);", "await_products<2>(sums);"),
    ("a pair's tokens are not masked", "pair_rows.cuh", "token < first[k / 2 % 2] ||", ""),
    ("a section that a pair lacks is seen", "pair_rows.cuh", "token >= place.seen_below", "false"),
    ("the largest of the pair's first section", "pair_rows.cuh", "const int at = kSectionSums * section + 4 * k + 2 * half;", "const int at = 4 * k + 2 * half;"),
    ("queries of the other half of eight", "pair_rows.cuh", "__byte_perm(other, mine, 0x7362U)", "__byte_perm(mine, other, 0x7362U)"),
    ("keys of a pair in another order", "section_pair.cuh", "token % 8 / 2 * 8 + token % 32 / 8 * 2", "token % 32 / 8 * 8 + token % 8 / 2 * 2"),
    ("shares of the first section's scale", "unpack_pairs.cu", "fmaxf(values.top, other_values.top)", "values.top"),
    ("means of sections that a pair lacks", "unpack_pairs.cu", "kDim * (2 - count); i +=", "0U; i +="),
    ("a pair is used before it is unpacked", "unpack_pairs.cu", "unpacked, means);\n  __syncthreads();", "unpacked, means);"),
    ("lines are used before they are there", "unpack_pairs.cu", "bring_to_lines(copied.section(i));\n    __syncthreads();", "bring_to_lines(copied.section(i));"),
    ("scales are used before they are there", "unpack_pairs.cu", "if constexpr (kRequantised) __syncthreads();", ""),
    ("a section's lines are used before they are there", "prefill_unpack.cu", "bring_to_lines(section);\n      __syncthreads();", "bring_to_lines(section);"),
    ("a section's scales are used before they are there", "prefill_unpack.cu", "if constexpr (kRequantised) __syncthreads();", ""),
    ("rows are not rotated", "prefill_rows.cuh", "if (rotate) rotate_across<4>(x);", ""),
    ("rows of pairs are not rotated", "pair_rows.cuh", "if (rotate) rotate_across<kRowLanes>(x);", ""),
    ("sums that are forgotten in the rotation", "rotate_across.cuh", "x[k] = low + high;", "x[k] = low;"),
    ("keys without the norm of the rotation", "requantise.cuh", "const float share = 1.0F / static_cast<float>(side.groups);", "const float share = 1.0F;"),
    ("requantised keys without outliers", "requantise.cuh", "x[j] += rest;", "x[j] += 0.0F;"),
    ("requantised values without outliers", "requantise.cuh", "if (outlier.group == first + k) x[k] += rest;", ""),
    ("outliers that values have no room for", "requantise.cuh", "fmaxf(fabsf(first), fabsf(last)) + rest", "fmaxf(fabsf(first), fabsf(last))"),
    ("values with the centre of keys", "requantise.cuh", "static_cast<float>(1U << (side.codec.bits - 1))", "0.5F * static_cast<float>((1U << side.codec.bits) - 1)"),
    ("the first value is taken for the largest", "requantise.cuh", "fmaxf(fabsf(first), fabsf(last))", "fabsf(first)"),
    ("uniform levels from a table", "prefill_unpack.cuh", "uniform ? static_cast<int8_t>(i) :", "false ? static_cast<int8_t>(i) :"),
    ("requantised keys out of order", "unpack_pairs.cu", "const uint32_t row = key_row(first_token + 32 * group + 4 * at.g + t);", "const uint32_t row = first_token + 32 * group + 4 * at.g + t;"),
    ("a pair is read before it is there", "attend_warpgroups.cu", "await_pair(Slot slot) const { await(full + slot.index, slot.parity); }", "await_pair(Slot) const {}"),
    ("a pair is overwritten while it is read", "attend_warpgroups.cu", "if (pair >= kSlots) await(", "if (false) await("),
    ("a launch over pairs that forgets the one before", "attend_warpgroups.cu", "if (span.first > 0) {", "if (span.first > 1000000) {"),
    ("the last row of pairs twice", "attend_warpgroups.cu", "if (row >= args.rows) continue;", "if (row > args.rows) continue;"),
    ("earlier waves' state forgotten", "merge.cu", "if (before == -INFINITY) return merged;", "if (before != INFINITY) return merged;"),
    ("what stood there before the first wave kept", "merge.cu", "args.onto ? args.lse[out] : -INFINITY", "args.lse[out]"),
    ("lse written before all have read it, many partials", "merge.cu", "  __syncthreads();  // lse has been read by all\n", ""),
    ("lse written before all have read it, few partials", "merge.cu", "  __syncwarp();  // lse has been read by all\n", ""),
    ("few partials without their weights", "merge.cu", "const float weight = weights[p] == 0.0F ? 0.0F : exp2_approx(ms[p] - m);", "const float weight = 1.0F;"),
    ("queries are used before they are there", "attend_kernel.cuh", "  __syncthreads();\n\n  const uint32_t begin", "\n  const uint32_t begin"),
    ("a head at the stride of pages", "encode_input.cuh", "head * input.head_stride", "head * input.page_stride"),
    ("pages one behind another", "encode_input.cuh", "page * input.page_stride", "page * input.heads * input.head_stride"),
    ("fours of rows that are not aligned", "encode_input.cuh", " && token_stride % 4 == 0", ""),
    ("fours that begin anywhere", "encode_input.cuh", "reinterpret_cast<uintptr_t>(first) % four == 0 && ", ""),
    ("bf16 with its neighbour's bits", "encode_input.cuh", "__uint_as_float(x.x & 0xFFFF0000U)", "__uint_as_float(x.x)"),
    ("f16 out of order", "encode_input.cuh", "wide(x.x), wide(x.x >> 16)", "wide(x.x >> 16), wide(x.x)"),
    ("dense keys of any type", "key_channels.cuh", "keys.type == InputType::kF32 && ", ""),
    ("rotated without the clamp", "encode_registers.cuh", "x[j] = fminf(fmaxf(x[j], -kRotationClamp), kRotationClamp);", "x[j] += 0.0F;"),
    ("the balance of the first head", "encode_registers.cuh", "size_t{blockIdx.x % input.heads}", "size_t{0}"),
    ("lanes turned the wrong way", "encode_registers.cuh", "(lane & distance) == 0 ? 1.0F : -1.0F", "(lane & distance) != 0 ? 1.0F : -1.0F"),
]
# Survivors that change nothing anyone can see, and why.
EQUIVALENT = {
    "worths of means that were counted already": "sections that the last group lacks have means of 0, whatever their worths",
}

NUQ = ["encode_nuq_keys.cu", "encode_nuq_values.cu"]
STAGED = ["staged_int4.cu", "staged_nuq4.cu", "staged_nuq3s.cu"]
UNITS = ["digests.cu", "select.cu", "encode.cu", "encode_rotated.cu", "encode_tcq.cu", "encode_uniform.cu", "attend_prefill.cu", "attend_warpgroups.cu", "prefill_unpack.cu", "unpack_pairs.cu", "encode_trellis.cu", "encode_nonuniform.cu", *NUQ, "attend_unfolded.cu", "decode.cu", "copy.cu", "merge.cu", "attend_dim64.cu", "staged_rot4.cu", *STAGED]
FLAGS = ["-std=c++20", "-O1", "-ffp-contract=off", "-w", "-DQUIRE_CUDA_SLICE", "-pthread"]


def units_of(file):
    """The translation units that a change of a file of quant/cuda shows in."""
    if file in UNITS:
        return [file]
    if file.startswith("staged_"):
        return ["staged_rot4.cu", *STAGED]
    if file.startswith("nuq_"):
        return NUQ
    if file == "encode_input.cuh":
        return ["encode.cu", "encode_rotated.cu", "encode_uniform.cu"]
    if file == "encode_block.cuh":
        return ["encode.cu", "encode_trellis.cu", "encode_nonuniform.cu"]
    if file == "mean_codes.cuh":
        return ["encode.cu", "encode_rotated.cu", "encode_tcq.cu", "encode_trellis.cu"]
    if file in ("trellis_search.cuh", "trellis_scales.cuh"):
        return ["encode_tcq.cu", "encode_trellis.cu"]
    shared = {"key_channels.cuh": "encode_nuq_keys.cu", "decoded.cuh": "decode.cu", "prefill_unpack.cuh": "prefill_unpack.cu", "trellis_operands.cuh": "prefill_unpack.cu", "prefill_rows.cuh": "attend_prefill.cu", "pair_rows.cuh": "attend_warpgroups.cu", "section_pair.cuh": "unpack_pairs.cu", "requantise.cuh": "unpack_pairs.cu", "unpack_section.cuh": "unpack_pairs.cu", "rotate_across.cuh": "unpack_pairs.cu",
              "section_means.cuh": "encode_rotated.cu", "encode_registers.cuh": "encode_rotated.cu", "uniform_group.cuh": "encode_uniform.cu", "numbers.cuh": "encode_uniform.cu"}
    if file in shared:
        return [shared[file]]
    return ["encode_rotated.cu" if file == "level_search.cuh" else "attend_dim64.cu"]


def compile_unit(root, tree, source, out):
    command = ["g++", *FLAGS, "-x", "c++", f"-I{tree}", f"-I{root}", "-isystem", f"{root}/tests/emu/include", "-c", str(source), "-o", str(out)]
    subprocess.run(command, check=True)


class Outcome(enum.Enum):
    """What the suite has to say of a mutant."""

    SURVIVED = "SURVIVED"
    KILLED = "killed  "
    TIMEOUT = "timeout "


class Bench:
    """The unchanged objects, and what links and runs with one of them replaced."""

    def __init__(self, root, build, work):
        self.root, self.build, self.work = root, build, work
        self.limit = None  # seconds that a mutant may take
        self.objects = {}
        for unit in [*UNITS, "attend.cc", "encode.cc", "format.cc"]:
            self.objects[unit] = work / f"{unit}.o"
            compile_unit(root, root, root / "quant/cuda" / unit, self.objects[unit])
        tests = [*(root / "tests/cuda").glob("*_test.cc"), root / "tests/cuda/absent_dims.cc"]
        tests += [root / f"tests/quant/{name}.cc" for name in ("attend_truth", "inputs", "section")] + [root / "kvcache/select.cc"]
        for test in tests:
            if test.name.startswith(("decoder_", "device_", "engine_", "pinned_memory_")):
                continue
            self.objects[test.name] = work / f"{test.name}.o"
            compile_unit(root, root, test, self.objects[test.name])

    def link(self, replaced):
        """The suite with these objects in place of their namesakes."""
        objects = {**self.objects, **replaced}
        program = self.work / "mutant"
        reference = [*self.build.glob("quant/CMakeFiles/quire_quant.dir/**/*.o"),
                     *self.build.glob("quant/cpu/CMakeFiles/quire_kernels.dir/*.o")]
        command = ["g++", "-pthread", *map(str, objects.values()), *map(str, reference),
                   str(self.build / "tests/emu/libemu.a"), "-lgtest", "-lgtest_main", "-lxxhash", "-o", str(program)]
        subprocess.run(command, check=True)
        return program

    def outcome(self, replaced):
        command = [str(self.link(replaced)), "--gtest_brief=1", "--gtest_fail_fast"]
        try:
            run = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=self.limit, check=False)
        except subprocess.TimeoutExpired:
            return Outcome.TIMEOUT
        return Outcome.SURVIVED if run.returncode == 0 else Outcome.KILLED

    def time_unchanged(self):
        """Sets the limit of mutants by what the unchanged kernels take, on this machine as busy as it is."""
        start = time.monotonic()
        if self.outcome({}) is not Outcome.SURVIVED:
            sys.exit("the unchanged kernels fail the tests")
        self.limit = 10 * (time.monotonic() - start)


def mutate(root, work, file, old, new):
    """The mutant's own tree of quant/."""
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(root / "quant", tree / "quant")
    path = tree / "quant/cuda" / file
    text = path.read_text(encoding="utf-8")
    if old not in text:
        sys.exit(f"{file} has no '{old}' any more: bring this list up to date")
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return tree


def changed_files(root, revision):
    """Names of files that differ from a revision, committed or not."""
    command = ["git", "-C", str(root), "diff", "--name-only", revision]
    paths = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {Path(path).name for path in paths}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--changed-since", metavar="REVISION")
    parser.add_argument("root", type=Path)
    parser.add_argument("build", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    root, build = arguments.root.resolve(), arguments.build.resolve()
    chosen = [m for m in MUTANTS if not arguments.names or any(name in m[0] for name in arguments.names)]
    if arguments.changed_since:
        changed = changed_files(root, arguments.changed_since)
        chosen = [m for m in chosen if m[1] in changed]
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bench = Bench(root, build, work)
        bench.time_unchanged()
        print(f"a mutant has {bench.limit:.0f} s", flush=True)
        for name, file, old, new in chosen:
            tree = mutate(root, work, file, old, new)
            replaced = {unit: work / f"mutant_{unit}.o" for unit in units_of(file)}
            for unit, out in replaced.items():
                compile_unit(root, tree, tree / "quant/cuda" / unit, out)
            outcomes[name] = bench.outcome(replaced)
            print(f"{outcomes[name].value} {file}: {name}", flush=True)
    survivors = [name for name, outcome in outcomes.items() if outcome is Outcome.SURVIVED]
    timeouts = sum(outcome is Outcome.TIMEOUT for outcome in outcomes.values())
    print(f"[counts] cases={len(chosen)} faults={len(chosen) - len(survivors)} timeouts={timeouts}")
    return 1 if any(name not in EQUIVALENT for name in survivors) else 0


if __name__ == "__main__":
    sys.exit(main())
