// The kernels of one instruction set: encode, decode and attend on bytes. One table per instruction set;
// quant/reference is the plain scalar table and the oracle of all others.
//
// Contract for every table:
//  - encode produces exactly the bytes FORMATS.md defines: equal across instruction sets, bit for bit.
//  - decode produces exactly the f32 values FORMATS.md defines.
//  - attend agrees with f64 attention over the decoded values within kAttendErrorBound (relative L2 of the
//  output),
//    and a row's bits depend on that row's query and the sections only: never on the other rows of the call,
//    on how many rows there are, or on where the bytes lie.
//  - no allocation, no lock, no system call, no exception; scratch comes from the caller.
// One indirect call per section and row tile is paid here: about 5 ns against a microsecond or more of work.
// Thread safety: the tables are immutable; functions touch only their arguments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/digest.h"
#include "quant/page.h"

namespace quire {

enum class Isa : uint8_t { kScalar = 0, kAvx2 = 1, kAvx512 = 2, kNeon = 3, kAvxVnni = 4, kAmx = 5 };
inline constexpr size_t kIsaCount = 6;

// One side's arrays inside a section.
struct SideView {
  const uint8_t* codes;  // 64-byte aligned
  const uint8_t* meta;
  uint32_t param;
};

// One section to attend: `section` points at its first byte (64-byte aligned).
struct SectionRef {
  const uint8_t* section;
  uint32_t key_param;
  uint32_t value_param;
};

// A tile of query rows that see the same folded pages. A row is one (query token, query head) pair; rows of
// one GQA group and of neighbouring tokens stand together.
struct QueryTile {
  const float* q;  // [rows][D], in the keys' space, times softmax_scale * log2(e)
  uint32_t rows;   // 1..kMaxTileRows
  const int32_t*
      first_token;  // [rows] or nullptr: tokens of the first section below this are masked for the row
};
inline constexpr uint32_t kMaxTileRows = 256;

// The mergeable state of each row, in log2 units: weights are exp2(score - m). m = -infinity, l = 0, o = 0 is
// empty.
struct AttendState {
  float* o;  // [rows][D] unnormalised, in the values' space
  float* m;  // [rows]
  float* l;  // [rows]
};

// Rotation of pre_rope keys while they are read. Null when keys were cached already rotated.
// Token t of a section at base position b was to be rotated by angles (b + t) * inv_freq; the row's q has
// been rotated by its own absolute position already.
struct KeyRotation {
  const float* token_cos;  // [rotary_dim / 2][tokens], offsets inside the page
  const float* token_sin;
  const float* base_cos;  // [sections of the call][rotary_dim / 2]
  const float* base_sin;
  uint32_t rotary_dim;  // even, <= D; pairs are (i, i + rotary_dim / 2)
  // [D] diagonal of the balanced rotation: required with a rotated key codec, nullptr with the others.
  const float* key_balance;
};

// What is the same for all sections of one attend call.
struct FoldedPages {
  SideCodec key_codec;
  SideCodec value_codec;
  uint8_t sink_tokens;  // > 0 only when the call's one section is page 0
  SectionShape shape;
  SectionLayout layout;
  const KeyRotation* rotation;  // nullptr in post_rope space
  // A hint: the first section of the caller's next call, prefetched while this call's last one is computed.
  const uint8_t* next_call = nullptr;
};

// Unfolded rows (a tail): keys and values as f32 [tokens][D], row r sees tokens [begin[r], end[r]).
struct UnfoldedRows {
  const float* keys;
  const float* values;
  uint32_t tokens;       // <= 128
  const int32_t* begin;  // [rows]
  const int32_t* end;    // [rows]
};

struct Kernels {
  Isa isa;

  // x: [shape.tokens][dim] f32, the codec's space; tokens below `first` are left out. codes and meta are
  // written whole. Every x of a token >= first must be finite: check with `finite`.
  void (*encode_key)(SideCodec codec, SectionShape shape, const float* x, uint32_t first, uint8_t* codes,
                     uint8_t* meta, uint32_t* param);
  void (*encode_value)(SideCodec codec, SectionShape shape, const float* x, uint32_t first, uint8_t* codes,
                       uint8_t* meta, uint32_t* param);
  // out: [shape.tokens][dim] f32.
  void (*decode_key)(SideCodec codec, SectionShape shape, const SideView& side, float* out);
  void (*decode_value)(SideCodec codec, SectionShape shape, const SideView& side, float* out);

  // True when none of x[0..n) is NaN or infinite.
  bool (*finite)(const float* x, size_t n);
  // Conversions, exact or round to nearest even.
  void (*bf16_to_f32)(const uint16_t* in, size_t n, float* out);
  void (*f16_to_f32)(const uint16_t* in, size_t n, float* out);
  void (*f32_to_bf16)(const float* in, size_t n, uint16_t* out);

  // out = H (diag x), row by row of x[rows][dim]; out is x itself or another place. FORMATS.md "Rotation".
  // diag: [dim] or nullptr. H is its own inverse, so unrotate with diag = nullptr and multiply by 1/diag
  // afterwards where one was used.
  void (*rotate)(const float* x, size_t rows, uint32_t dim, const float* diag, float* out);

  // Bytes of scratch (64-byte aligned) that attend_folded and attend_unfolded need for this many rows.
  size_t (*attend_scratch_bytes)(uint32_t rows, SectionShape shape);
  // Continues `state` over the sections in order. The next section is prefetched while one is computed.
  // tile.first_token concerns sections[0] only.
  void (*attend_folded)(const FoldedPages& pages, std::span<const SectionRef> sections, const QueryTile& tile,
                        const AttendState& state, uint8_t* scratch);
  void (*attend_unfolded)(const UnfoldedRows& unfolded, const QueryTile& tile, uint32_t dim,
                          const AttendState& state, uint8_t* scratch);
  // into = into merged with from, row by row: rows of an empty `from` change nothing.
  void (*merge)(const AttendState& into, const AttendState& from, uint32_t rows, uint32_t dim);
  // o = o / l (0 where l = 0), lse[r] = ln of the sum of exp (natural log; -infinity where l = 0) if lse is
  // given.
  void (*finish)(const AttendState& state, uint32_t rows, uint32_t dim, float* lse);

  // quant/digest.h; both equal across instruction sets, bit for bit.
  void (*make_digest)(const float* keys, SectionShape shape, uint8_t* digest);
  void (*score_digests)(std::span<const uint8_t* const> digests, SectionShape shape,
                        std::span<const DigestQuery> queries, size_t stride, float* mass, float* peak);
};

// Relative L2 error of an attention output against f64 over the decoded values.
inline constexpr double kAttendErrorBound = 1e-2;       // 4 bits and below: q in two int8 parts, p in 8 bits
inline constexpr double kAttendErrorBoundInt8 = 2e-4;   // both in two parts
inline constexpr double kAttendErrorBoundFloat = 2e-6;  // f32 arithmetic

// nullptr when this build or this machine cannot run it. kScalar always exists.
const Kernels* find_kernels(Isa isa);
// The fastest that this machine runs.
const Kernels& best_kernels();
const char* isa_name(Isa isa);

}  // namespace quire
