#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "kvcache/seal.h"
#include "kvcache/step.h"

namespace quire {
namespace {

// Tokens of one entry that fall into one page.
struct Piece {
  const StepEntry* entry;
  uint32_t page;
  uint32_t offset;  // first token inside the page
  uint32_t count;
  uint32_t token;  // first token in the step's tensors
  float* frame;
};

bool continues(const FrameRun& run, uint64_t first) { return !run.frames.empty() && run.end == first; }

// A replay that does not go on where the last one stopped starts over.
void prepare_run(const CacheContext& context, const StepEntry& entry, uint32_t layer) {
  FrameRun& run = entry.run(layer);
  const auto page = static_cast<uint32_t>(entry.first / context.config.page_tokens);
  if (entry.replay && !continues(run, entry.first)) {
    free_frames(context, &run);
    run.begin = run.end = entry.first;
  }
  if (run.frames.empty()) run.first_page = page;
}

Status check_continuity(const StepEntry& entry, uint32_t layer) {
  const FrameRun& run = entry.run(layer);
  if (entry.replay || run.end == entry.first) return {};
  return {StatusCode::kInternal, "layer " + std::to_string(layer) + " holds " + std::to_string(run.end) +
                                     " tokens and the step starts at " + std::to_string(entry.first)};
}

Status cut_pieces(const CacheContext& context, const StepEntry& entry, uint32_t layer,
                  std::vector<Piece>* pieces) {
  const uint32_t page_tokens = context.config.page_tokens;
  if (Status status = check_continuity(entry, layer); !status.ok()) return status;
  prepare_run(context, entry, layer);
  FrameRun& run = entry.run(layer);
  const uint64_t end = entry.first + entry.count;
  const Status status = extend_frames(context, &run, static_cast<uint32_t>((end - 1) / page_tokens));
  if (!status.ok()) return status;
  for (uint64_t position = entry.first; position < end;) {
    const auto page = static_cast<uint32_t>(position / page_tokens);
    const auto offset = static_cast<uint32_t>(position % page_tokens);
    const auto count = static_cast<uint32_t>(std::min<uint64_t>(page_tokens - offset, end - position));
    const auto token = static_cast<uint32_t>(entry.token_offset + (position - entry.first));
    pieces->push_back({&entry, page, offset, count, token, run.frame(page)});
    position += count;
  }
  return {};
}

// While it lives, the frames that one layer leaves serve the next.
class FrameReuse {
 public:
  explicit FrameReuse(Residency& residency) : residency_(residency) {
    ResidencyLock lock = residency_.lock();
    residency_.keep_freed_frames(lock);
  }
  ~FrameReuse() {
    ResidencyLock lock = residency_.lock();
    residency_.drop_freed_frames(lock);
  }
  FrameReuse(const FrameReuse&) = delete;
  FrameReuse& operator=(const FrameReuse&) = delete;

 private:
  Residency& residency_;
};

// The pieces of all entries; their frames are taken once those of the layer before are given back.
Status open_layer(const CacheContext& context, Step* step, uint32_t layer, std::vector<Piece>* pieces) {
  const FrameReuse reuse(context.residency);
  close_layer(context, step);
  step->open_layer = layer;
  Status status;
  for (const StepEntry& entry : step->entries) {
    if (status.ok()) status = cut_pieces(context, entry, layer, pieces);
  }
  return status;
}

// Rows of a piece to `out`, in the codec's space. False when a value is not finite.
bool fill_rows(const Kernels& kernels, const TensorView& rows, const Piece& piece, uint32_t head,
               uint32_t dim, CodecId codec, const float* balance, float* out) {
  const bool rotated = in_rotated_space(codec);
  for (uint32_t t = 0; t < piece.count; ++t, out += dim) {
    const float* row = rotated ? read_row(rows, piece.token + t, head, dim, kernels, out) : out;
    if (!rotated) load_row(rows, piece.token + t, head, dim, kernels, out);
    if (!kernels.finite(row, dim)) return false;
    if (rotated) kernels.rotate(row, 1, dim, balance, out);
  }
  return true;
}

// Copies one head's rows of a piece into the frame, in the codecs' spaces. False when a value is not finite.
bool fill_frame(const CacheContext& context, const LayerConfig& layer, const Piece& piece, uint32_t head,
                const TensorView& keys, const TensorView& values) {
  const CacheConfig& config = context.config;
  const Kernels& kernels = context.kernels;
  const uint32_t dim = config.head_dim;
  float* key_rows = piece.frame + (size_t{head} * config.page_tokens + piece.offset) * dim;
  float* value_rows = key_rows + config.frame_side_floats();
  const float* balance = layer.key_balance.empty() ? nullptr : layer.key_balance.data() + size_t{head} * dim;
  return fill_rows(kernels, keys, piece, head, dim, layer.key_codec, balance, key_rows) &&
         fill_rows(kernels, values, piece, head, dim, layer.value_codec, nullptr, value_rows);
}

Status fill_frames(const CacheContext& context, uint32_t layer, std::span<const Piece> pieces,
                   const TensorView& keys, const TensorView& values) {
  const uint32_t heads = context.config.kv_heads;
  std::atomic<bool> finite{true};
  parallel_for(context.executor, static_cast<uint32_t>(pieces.size()) * heads, [&](uint32_t i) {
    if (!fill_frame(context, context.config.layer[layer], pieces[i / heads], i % heads, keys, values)) {
      finite.store(false, std::memory_order_relaxed);
    }
  });
  if (finite.load(std::memory_order_relaxed)) return {};
  return {StatusCode::kNotFinite, "the keys or values of layer " + std::to_string(layer) +
                                      " hold NaN or infinity; nothing of this step was stored in it"};
}

// The piece's tokens where the device can fold them: they are a whole page, and lie there.
std::optional<KeysAndValues> on_device(const Piece& piece, uint32_t page_tokens, const KeysAndValues& given) {
  if (!given.keys.on_device || !given.values.on_device || piece.count != page_tokens) return std::nullopt;
  return KeysAndValues{from_token(given.keys, piece.token), from_token(given.values, piece.token)};
}

// The pages that the pieces complete; of a replay only those that are needed.
std::vector<SealJob> full_pages(const CacheContext& context, uint32_t layer, std::span<const Piece> pieces,
                                const KeysAndValues& given) {
  const uint32_t page_tokens = context.config.page_tokens;
  std::vector<SealJob> jobs;
  for (const Piece& piece : pieces) {
    if (piece.offset + piece.count != page_tokens) continue;
    const StepEntry& entry = *piece.entry;
    const bool whole = entry.run(layer).begin <= uint64_t{piece.page} * page_tokens;
    if (entry.replay && (!whole || !needs_refill(context, *entry.sequence, layer, piece.page))) continue;
    jobs.push_back({entry.sequence, layer, piece.page, piece.frame, on_device(piece, page_tokens, given)});
  }
  return jobs;
}

// Forgets what a failed append left: pages it sealed and frames beyond the tail.
void undo(const CacheContext& context, const Step& step, uint32_t layer) {
  for (const StepEntry& entry : step.entries) {
    FrameRun& run = entry.run(layer);
    if (entry.replay) {
      free_frames(context, &run);
      continue;
    }
    ResidencyLock lock = context.residency.lock();
    const auto pages = static_cast<uint32_t>(entry.first / context.config.page_tokens);
    context.residency.truncate_table(lock, entry.sequence->layers[layer].table, pages);
  }
}

}  // namespace

Status append_tokens(const CacheContext& context, Step* step, uint32_t layer, const KeysAndValues& rows,
                     const KeysAndValues& given) {
  std::vector<Piece> pieces;
  Status status = open_layer(context, step, layer, &pieces);
  if (status.ok()) status = fill_frames(context, layer, pieces, rows.keys, rows.values);
  if (status.ok()) status = seal_pages(context, full_pages(context, layer, pieces, given));
  if (!status.ok()) {
    undo(context, *step, layer);
    step->failed = true;
    return status;
  }
  for (const StepEntry& entry : step->entries) entry.run(layer).end = entry.first + entry.count;
  step->appended[layer] = true;
  return {};
}

void close_layer(const CacheContext& context, Step* step) {
  if (step->open_layer < 0) return;
  for (const StepEntry& entry : step->entries) {
    SequenceLayer& layer = entry.sequence->layers[static_cast<uint32_t>(step->open_layer)];
    FrameRun& run = entry.replay ? layer.replay : layer.live;
    const uint32_t seen = first_recent_page(context.config, run.end);
    if (!entry.replay) keep_frames(context, &layer, seen, entry.first);
    trim_frames(context, &run, seen);
  }
  step->open_layer = -1;
}

Status refill_pages(const CacheContext& context, Sequence* sequence, uint32_t layer, uint32_t first_page,
                    uint32_t pages, const TensorView& keys, const TensorView& values) {
  const uint32_t page_tokens = context.config.page_tokens;
  FrameRun run;
  run.first_page = first_page;
  for (uint32_t i = 0; i < pages; ++i) {
    if (!needs_refill(context, *sequence, layer, first_page + i)) continue;
    // One frame serves all pages: a refill may be as long as the context.
    Status status = extend_frames(context, &run, first_page);
    const StepEntry entry{sequence, 0, 0, true, 0};
    const Piece piece{&entry,      first_page + i,  0,
                      page_tokens, i * page_tokens, status.ok() ? run.frames[0] : nullptr};
    if (status.ok()) status = fill_frames(context, layer, {&piece, 1}, keys, values);
    const SealJob job{sequence, layer, first_page + i, piece.frame, std::nullopt};
    if (status.ok()) status = seal_pages(context, {&job, 1});
    if (!status.ok()) {
      free_frames(context, &run);
      return status;
    }
  }
  free_frames(context, &run);
  return {};
}

}  // namespace quire
