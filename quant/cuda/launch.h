// The kernels of CUDA as functions of the host: each puts work into a stream and returns at once. This is the
// one launch header; what it declares is built by nvcc, or by a host compiler against the emulator
// (tests/emu).
//
// All pointers are to memory that the device reaches, alive until the work has run. Bytes are those of
// FORMATS.md: pages encoded here equal those of every other table. Errors are of the launch alone; those of
// the work come from later calls on the stream. Thread safety: functions touch only their arguments.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "quant/kernels.h"
#include "quant/page.h"

namespace quire::cuda {

// One side of a codec, as device code sees it.
struct DeviceCodec {
  CodecId id;
  CodecFamily family;
  uint32_t bits;
};
DeviceCodec device_codec(CodecId id);

// False for codecs that have no kernels here: calls with them return cudaErrorNotSupported.
bool has_kernels(CodecId id);

// What is the same for all sections of a call.
struct SectionFormat {
  DeviceCodec key;
  DeviceCodec value;
  SectionShape shape;
  SectionLayout layout;
  uint32_t sink_tokens;
  // [2^bits] levels of non-uniform codecs in the device's memory, where the layer has its own; or nullptr.
  const int8_t* key_levels = nullptr;
  const int8_t* value_levels = nullptr;
};
SectionFormat section_format(const PageKind& kind);
bool has_kernels(const SectionFormat& format);

// What stands against pages of this kind on a device, as a sentence for whoever asked for them; nullptr:
// nothing.
const char* device_refusal(const PageKind& kind);

// Types of unfolded values.
enum class InputType : uint8_t { kF32, kBf16, kF16 };
constexpr size_t input_bytes(InputType type) { return type == InputType::kF32 ? 4 : 2; }

// Unfolded values of one side of sections, pages of `heads` of them one after another, where an engine has
// them: channel c of token t of section i is element
//   i / heads * page_stride + i % heads * head_stride + t * token_stride + c
// of data, which is aligned to its type. Finite, and in the codec's space. Faster where data and strides are
// multiples of four elements.
struct EncodeInput {
  const void* data;
  InputType type;
  uint32_t heads;
  uint64_t page_stride;
  uint64_t head_stride;
  uint64_t token_stride;
  // Of codecs in rotated space in shapes that rotates_input takes: values are not in it yet, and are rotated
  // as they are read (FORMATS.md, Rotation). balance: [heads][dim], aligned to 16 bytes, or nullptr.
  bool rotate = false;
  const float* balance = nullptr;
};
// [sections][tokens][dim] f32.
constexpr EncodeInput dense_input(const float* x, SectionShape shape) {
  const uint64_t section = uint64_t{shape.tokens} * shape.dim;
  return {x, InputType::kF32, 1, section, 0, shape.dim};
}

bool rotates_input(SectionShape shape);

// Writes sections[i], all bytes of it, and params[i] = {key param, value param}.
struct EncodeArgs {
  SectionFormat format;
  EncodeInput keys;
  EncodeInput values;
  uint8_t* const* sections;
  uint32_t* params;  // [sections][2]
  uint32_t count;
  // Of the keys, as make_digests has them, where they are wanted; or nullptr. They want keys that are dense
  // and not to be rotated: with others the call returns cudaErrorNotSupported.
  uint8_t* const* digests = nullptr;
};
[[nodiscard]] cudaError_t encode_sections(const EncodeArgs& args, cudaStream_t stream);

// Digests of keys [sections][tokens][dim] f32, finite: digests[i] gets digest_bytes(shape) bytes
// (quant/digest.h), those of make_digest. digests[i] is 4-byte aligned.
struct DigestArgs {
  SectionShape shape;
  const float* keys;
  uint8_t* const* digests;
  uint32_t count;
};
[[nodiscard]] cudaError_t make_digests(const DigestArgs& args, cudaStream_t stream);

// Estimates of quant/digest.h's score_digests, bit for bit, of every row over every page: mass and peak
// [kv_heads][rows][pages].
struct DigestScoreArgs {
  SectionShape shape;
  const uint8_t* const* digests;  // [pages]: of a page's kv heads one after the other
  uint32_t pages;
  uint32_t kv_heads;
  const float* q;  // [kv_heads][rows][dim], finite, times softmax_scale * log2(e)
  uint32_t rows;   // 1 to 16: query heads of a group
  float* mass;
  float* peak;
};
[[nodiscard]] cudaError_t score_digests(const DigestScoreArgs& args, cudaStream_t stream);

// The choice of pages per kv head as kvcache/select.h makes it: the heaviest `pages`, half by mass and half
// by peak, or the fewest that hold `share` of every row's mass; and those of `always`. Ties go to the older
// page. Sums are in f64, in an order of their own: pages whose weights differ by less than 2^-50 may change
// places.
struct SelectArgs {
  uint32_t kv_heads;
  uint32_t rows;          // 1 to 16
  uint32_t count;         // pages to choose among
  uint32_t pages;         // of them, where share is 0
  float share;            // (0, 1], or 0
  float* mass;            // [kv_heads][rows][count] log2; overwritten with shares
  const float* peak;      // [kv_heads][rows][count]
  const uint8_t* always;  // [kv_heads][count]: nonzero is chosen whatever it weighs
  uint8_t* chosen;        // [kv_heads][count]: 1 or 0
  float* left_out;        // [kv_heads][rows]: log2 of the mass not chosen over that chosen
};
[[nodiscard]] cudaError_t select_pages(const SelectArgs& args, cudaStream_t stream);

// keys, values: [sections][tokens][dim] f32, exactly as FORMATS.md decodes them; sinks as they stand. May be
// nullptr, else aligned to 16 bytes.
struct DecodeArgs {
  SectionFormat format;
  const SectionRef* sections;
  float* keys;
  float* values;
  uint32_t count;
};
[[nodiscard]] cudaError_t decode_sections(const DecodeArgs& args, cudaStream_t stream);

// The rotation of pre_rope keys while they are read, as KeyRotation in quant/kernels.h has it: token t of
// section s of head h was to be rotated by base_*[s] plus the offset's angle token_*[.][t].
struct DeviceKeyRotation {
  const float* token_cos;  // [rotary_dim / 2][tokens]
  const float* token_sin;
  const float* base_cos;  // [section_count][rotary_dim / 2]
  const float* base_sin;
  uint32_t rotary_dim;       // even, at most dim; 0: keys are in post_rope space, and nothing above is read
  const float* key_balance;  // [kv_heads][dim] of rotated and trellis keys, nullptr: all are 1
};

// Attention of rows over the folded sections of each kv head, in runs of `run_sections`: one partial per run.
// A partial's bits depend on its run, its row and the format alone.
struct AttendArgs {
  SectionFormat format;        // sink_tokens: of the first section
  const SectionRef* sections;  // [kv_heads][section_stride]
  uint32_t section_stride;
  uint32_t section_count;  // of a head, or of the head that has most
  uint32_t run_sections;
  uint32_t kv_heads;
  const float* q;              // [kv_heads][rows][dim], in the keys' space, times softmax_scale * log2(e)
  uint32_t rows;               // of one kv head: query heads of its group, times query tokens
  const int32_t* first_token;  // [rows] or nullptr: tokens below this, counted from section 0, are not seen
  AttendState partials;        // o [kv_heads][runs][rows][dim], m and l [kv_heads][runs][rows]
  // With pre_rope keys q is rotated by its position alone, and balance and the rotation of `rot` and `tcq`
  // keys are left out of it.
  DeviceKeyRotation rotation{};
  // Of prefill over codecs of up to 4 bits, which unpacks sections there for all rows: as much as
  // prefill_scratch_bytes or more, aligned to 16 bytes. With less it takes a slower kernel.
  uint8_t* scratch = nullptr;
  size_t scratch_bytes = 0;
  // [kv_heads] where heads have sections of their own choice: how many; or nullptr. With sinks all have the
  // first.
  const uint32_t* head_sections = nullptr;
};
constexpr uint32_t sections_of(const AttendArgs& args, uint32_t head) {
  return args.head_sections == nullptr ? args.section_count : args.head_sections[head];
}
constexpr uint32_t run_count(const AttendArgs& args) {
  return (args.section_count + args.run_sections - 1) / args.run_sections;
}
// For a few rows: the warps of a block share a run.
[[nodiscard]] cudaError_t attend_decode(const AttendArgs& args, cudaStream_t stream);
// For many rows: the warps of a block read the same sections for rows of their own. Over codecs of up to 4
// bits in pages of 64 tokens queries and weights have 8 bits here (kAttendErrorBoundTiles, and
// kAttendErrorBoundPairs on compute capability 9.0), and with uniform and non-uniform ones keys and values as
// well (kAttendErrorBoundRequantised).
[[nodiscard]] cudaError_t attend_prefill(const AttendArgs& args, cudaStream_t stream);

// The scratch that `sections` of each run of each kv head need to be unpacked at once; fewer sections in more
// launches need less, down to that for 1. 0 for shapes that prefill tiles do not take.
size_t prefill_scratch_bytes(SectionShape shape, uint32_t kv_heads, uint32_t runs, uint32_t sections);

// Merges `count` partials of each kv head in their order: o, m and l of [kv_heads][rows] with o divided by l.
// lse, [kv_heads][rows], is the natural log of the sum of exp, or nullptr.
struct MergeArgs {
  AttendState partials;  // as above
  uint32_t count;
  uint32_t kv_heads;
  uint32_t rows;
  uint32_t dim;
  float* out;  // [kv_heads][rows][dim]
  float* lse;
  bool onto;  // out and lse, which is not null then, are one more partial
};
[[nodiscard]] cudaError_t merge_partials(const MergeArgs& args, cudaStream_t stream);

// Copies pages between places that the device reaches, pinned host memory among them. One launch moves many
// pages at the link's rate, where a copy per page would be bound by the number of copies.
struct PageCopy {
  const uint8_t* from;  // both 16-byte aligned
  uint8_t* to;
};
struct CopyArgs {
  const PageCopy* pages;  // [count]
  uint32_t count;
  uint32_t bytes;  // of one page, a multiple of 16
};
[[nodiscard]] cudaError_t copy_pages(const CopyArgs& args, cudaStream_t stream);

// x[rows][dim] = H (diag x), FORMATS.md "Rotation". diag: [dim] or nullptr.
[[nodiscard]] cudaError_t rotate_rows(float* x, uint32_t rows, uint32_t dim, const float* diag,
                                      cudaStream_t stream);

// Relative L2 error of attention against f64 over the decoded values: queries and weights have 16 bits,
// floats are multiplied as two bf16 each.
inline constexpr double kAttendErrorBoundFolded = 2e-4;
inline constexpr double kAttendErrorBoundFloats = 5e-5;
// Of single rows over few tokens; mostly a third of it. Pairs of sections share the largest score that
// weights are relative to, so theirs are a little coarser: 6.8e-3 in the median over 513 rows, tiles 6.0e-3.
inline constexpr double kAttendErrorBoundTiles = 2e-2;
inline constexpr double kAttendErrorBoundPairs = 2.5e-2;
// Of either where a codec's values are rounded anew: 1.0e-2 and 1.3e-2 in the median over 513 rows of int4,
// which has lost 9e-2.
inline constexpr double kAttendErrorBoundRequantised = 5e-2;

}  // namespace quire::cuda
