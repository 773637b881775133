// The device that sealed pages are folded and attended on: kernels over pages in its own memory. The one seam
// between the cache and device kernels; a cache without one computes on the CPU and pays a null test per
// sealed batch and per wave of attention.
//
// What crosses the link: tensors of the engine's that lie on the device, down and outputs up, once per call;
// of a sealed page its unfolded values go up (f32), unless a whole page of them lies there in the engine's
// tensors, and its folded bytes come down once, for checksums, with its digests where they are kept; of an
// attend call its queries go up once, in two orders where a step has several tiles; of a wave of up to
// kWaveRuns runs the references of its pages go up, with pre_rope keys the angles of these and the pages of
// host memory that are to be attended here; of all waves that are waited for together a merged partial per
// row comes down, two where some pages are seen by all tiles and some by one, however many pages they have.
//
// Invariants: slots are device memory, which only functions of this class read and write; all functions work
// on one stream, in order, but for copies of carried pages, which run beside what was given before them and
// are done before what is given behind them; host memory that they hand out is theirs and pinned; everything
// is allocated when the device is opened, but for the slots. Errors: kDeviceLost is for good, every later
// call gives it again. Thread safety: map, unmap, pin, unpin, mark and create_stream from any thread that the
// caller orders; the rest from the compute stream alone.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "kvcache/budget.h"
#include "kvcache/config.h"
#include "kvcache/device.h"
#include "kvcache/pool.h"
#include "kvcache/rope.h"
#include "kvcache/tensor.h"
#include "quant/kernels.h"

namespace quire {

// Pages of one layer and one kind that are folded together.
struct EncodeBatch {
  uint32_t layer;
  bool first_page;                       // they are pages 0, with sinks; else none is
  std::span<const float* const> frames;  // on the host, as CacheConfig::frame_bytes has them
  std::span<uint8_t* const> slots;       // on the device; headers are left as they are
  // The same tokens as the engine's tensors on the device have them, those of a page behind those of the page
  // before, not rotated; or nullptr. A device that can fold these does not look at the frames.
  const KeysAndValues* given = nullptr;
};

// What came down of them, good until the next call.
struct EncodedBatch {
  uint8_t* pages;  // [pages][stride]: as in the slots, headers arbitrary; the caller may change them
  size_t stride;
  const uint32_t* params;  // [pages][kv_heads][2]: key, value
  const uint8_t* digests;  // [pages][kv_heads][digest_bytes] of what attention will read; or nullptr
};

// Rows of some kv heads, those of each head over a list of sections of its own.
struct DeviceRows {
  uint32_t first_ref;      // into DeviceAttendSpace::sections: of the first head
  uint32_t stride;         // from head to head
  uint32_t section_count;  // of each head's list, or of the longest
  uint32_t heads;
  uint32_t rows;       // of each head
  uint32_t query_row;  // of the first head, whose rows stand before the next one's
  uint32_t state_row;  // likewise: of states
  uint32_t input_row;  // likewise: of first tokens and head_sections
  bool onto;           // waves before this one have left a state there, which this is added to
  bool sinks;          // the first section is of page 0
  bool windowed;       // DeviceAttendSpace::first_token counts
  bool counted;        // DeviceAttendSpace::head_sections counts: [heads] from input_row on
  // Of pre_rope keys, else nullptr: how they are turned inside a page, and where the turns of the sections'
  // own positions begin in DeviceAttendSpace::base_cos and base_sin, [section_count][offsets->half].
  const RopeOffsets* offsets;
  size_t first_angle;
};

// Host memory through which attention goes.
struct DeviceAttendSpace {
  float* q;                 // [rows][head_dim], twice as many rows as the largest step has
  int32_t* first_token;     // [input_rows]: tokens below, counted from the list's first section, are not seen
  uint32_t* head_sections;  // [input_rows], of caches with digests: how long a head's list is
  SectionRef* sections;     // of slots
  float* base_cos;          // of pre_rope caches: [refs / kv_heads][head_dim / 2]
  float* base_sin;
  AttendState state;  // [rows]: of all waves' pages, o divided by l
  uint32_t input_rows;
  uint32_t refs;  // sections that there is room for
};

// What a wave takes of the space: first tokens and sections are its own until the waves end.
struct WaveSpace {
  uint32_t first_ref;
  uint32_t refs;
  uint32_t first_row;
  uint32_t rows;
  bool windowed;  // some rows have first tokens
  bool counted;   // some heads have lists of their own length
};

// `count` runs of `bytes` at strides of bytes, which are at least as long where there are several; either
// side may be on the device.
struct RowCopy {
  uint8_t* to;
  size_t to_stride;
  const uint8_t* from;
  size_t from_stride;
  size_t bytes;
  uint32_t count;
};

// A page that a wave brings along, in memory that the device reads.
struct CarriedPage {
  const uint8_t* from;
  uint32_t bytes;
};

// Frames on the device: page i of what was carried lies at first + i * stride.
struct CarriedFrames {
  uint8_t* first = nullptr;
  size_t stride = 0;
};

class PageDevice : public SlotMemory {
 public:
  ~PageDevice() override;
  virtual std::string_view name() const = 0;
  // For copies from and to slots.
  virtual Result<std::unique_ptr<Stream>> create_stream() = 0;

  // An event after the work so far of a stream that is not ours (a cudaStream_t of this device). Any thread.
  virtual Result<std::unique_ptr<Event>> mark(void* stream) = 0;

  // Most pages of one EncodeBatch.
  virtual uint32_t encode_pages() const = 0;
  // Writes the sections of the slots, and returns when they have come down.
  virtual Result<EncodedBatch> encode(const EncodeBatch& batch) = 0;
  // Copies host memory to a slot, and the other way round; both return when that is done.
  virtual Status store(uint8_t* slot, const uint8_t* bytes, size_t count) = 0;
  // Good until the next call.
  virtual Result<const uint8_t*> fetch(const uint8_t* slot, size_t count) = 0;

  // Host memory for [max_step_tokens][query_heads][head_dim] floats; room: 0 or 1. Waves write there.
  virtual uint8_t* tensor_room(uint32_t room) = 0;
  // Copies are done when finish_copies has returned.
  virtual Status copy_rows(const RowCopy& copy) = 0;
  virtual Status finish_copies() = 0;

  // Where slots of host memory come from: memory that the device reads at the speed of the link.
  virtual SlotMemory& host_memory() = 0;
  // Makes memory of the caller's such memory, until unpin with the same range.
  virtual void pin(std::span<uint8_t> memory) = 0;
  virtual void unpin(std::span<uint8_t> memory) = 0;
  // Pages that one wave may bring along; 0: there is no room, or host memory is out of the device's reach.
  virtual uint32_t carry_room() const = 0;
  // Copies at most carry_room() pages to frames, for waves that are given before the next call.
  virtual Result<CarriedFrames> carry(std::span<const CarriedPage> pages) = 0;
  // The same with memory of its own, and waits: for who measures the link. Returns the bytes copied.
  virtual Result<uint64_t> try_link(uint32_t pages) = 0;

  virtual DeviceAttendSpace attend_space() = 0;
  // Takes the first `rows` rows of the space's q for the waves that follow.
  virtual Status load_queries(uint32_t rows) = 0;
  // Waves are given one after another, and nobody waits for them before end_waves: what they have taken of
  // the space may change again after that.
  virtual Status begin_wave(const WaveSpace& wave) = 0;
  virtual Status attend(uint32_t layer, std::span<const DeviceRows> rows) = 0;
  // Returns when the states of the attended rows, all below `rows`, are in the space.
  virtual Status end_waves(uint32_t rows) = 0;
};

// Pins memory while it lives; both outlive it.
class PinnedRange {
 public:
  PinnedRange(PageDevice& device, std::span<uint8_t> memory) : device_(device), memory_(memory) {
    device_.pin(memory_);
  }
  ~PinnedRange() { device_.unpin(memory_); }
  PinnedRange(const PinnedRange&) = delete;
  PinnedRange& operator=(const PinnedRange&) = delete;

 private:
  PageDevice& device_;
  std::span<uint8_t> memory_;
};

// What a device is opened with: budgets are charged for what it allocates, and outlive it, as the config
// does.
struct PageDeviceSetup {
  const CacheConfig& config;
  Budget& device_budget;
  Budget& host_budget;
  uint32_t wave_pages;   // most pages of one wave
  uint32_t space_pages;  // pages that the space has room for the sections of
};
using PageDeviceFactory = std::function<Result<std::unique_ptr<PageDevice>>(const PageDeviceSetup& setup)>;

}  // namespace quire
