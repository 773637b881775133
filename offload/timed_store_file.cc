#include "offload/timed_store_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "offload/os_error.h"
#include "offload/thread_engine.h"
#include "offload/tier.h"

namespace quire {
namespace {

constexpr Nanoseconds kPoll = std::chrono::seconds(1);  // whoever waits looks again

const char* verb(IoKind kind) {
  if (kind == IoKind::kRead) return "read from";
  return kind == IoKind::kWrite ? "written to" : "synced";
}

}  // namespace

Result<std::unique_ptr<StoreFile>> TimedStoreFile::open(std::unique_ptr<NamedFile> file,
                                                        const StoreFileOptions& options, const Clock& clock,
                                                        Budget& budget) {
  std::unique_ptr<TimedStoreFile> timed(new TimedStoreFile(std::move(file), options, clock));
  const uint64_t piece = std::clamp<uint64_t>(run_align_up(options.largest_transfer), kRunAlign, kPieceBytes);
  Result<BudgetedBytes> memory = BudgetedBytes::allocate(budget, Use::kStaging, kPieces * piece);
  if (!memory.ok()) return memory.status();
  timed->memory_ = std::move(*memory);
  for (uint32_t i = 0; i < kPieces; ++i) {
    timed->pieces_[i].buffer = {timed->memory_.data() + i * piece, piece};
  }
  const IoEngineOptions io{IoEngineKind::kThreads,
                           kPieces,
                           {timed->file_->fd()},
                           {{timed->memory_.data(), timed->memory_.size()}}};
  auto engine = options.factory ? options.factory(io, clock) : ThreadEngine::create(io, clock);
  if (!engine.ok()) return engine.status();
  timed->engine_ = std::move(*engine);
  return std::unique_ptr<StoreFile>(std::move(timed));
}

Status TimedStoreFile::read(uint64_t offset, std::span<uint8_t> bytes) {
  return transfer({IoKind::kRead, offset, bytes, {}});
}

Status TimedStoreFile::write(uint64_t offset, std::span<const uint8_t> bytes) {
  return transfer({IoKind::kWrite, offset, {}, bytes});
}

Status TimedStoreFile::sync() { return transfer({IoKind::kSync, 0, {}, {}}); }

// Every request of the job has ended, or is late, when this returns.
Status TimedStoreFile::transfer(Job job) {
  if (Status status = settle(); !status.ok()) return status;
  const auto is_busy = [](const Piece& piece) { return piece.busy; };
  const bool is_sync = job.kind == IoKind::kSync;
  if (is_sync) job.failure = start(job, pieces_[0]);
  do {
    for (Piece& piece : pieces_) {
      if (is_sync || piece.busy || !job.failure.ok() || job.next == job.size()) continue;
      job.failure = start(job, piece);
    }
    if (std::ranges::none_of(pieces_, is_busy)) break;
    if (Result<size_t> got = receive(&job, kPoll); !got.ok()) return got.status();
  } while (true);
  if (job.os_error == EINVAL && file_->turn_off_direct()) {
    job.next = 0;
    job.failure = {};
    job.os_error = 0;
    return transfer(std::move(job));
  }
  return job.failure;
}

// Nothing else is asked of a file that still owes an answer.
Status TimedStoreFile::settle() {
  if (!broken_.ok()) return broken_;
  const auto is_late = [](const Piece& piece) { return piece.late; };
  while (std::ranges::any_of(pieces_, is_late)) {
    const Result<size_t> got = receive(nullptr, Nanoseconds::zero());
    if (!got.ok()) return got.status();
    if (*got > 0) continue;
    return {StatusCode::kDeadline,
            "the store '" + name() + "' does not answer: an earlier request has not come back"};
  }
  return {};
}

Status TimedStoreFile::start(Job& job, Piece& piece) {
  piece.at = job.next;
  piece.bytes = std::min<uint64_t>(piece.buffer.size(), job.size() - job.next);
  if (job.kind == IoKind::kWrite) std::memcpy(piece.buffer.data(), job.from.data() + piece.at, piece.bytes);
  piece.tag = next_tag_++;
  const IoOp op{job.kind,
                0,
                job.offset + piece.at,
                piece.buffer.first(piece.bytes),
                piece.tag,
                clock_.now() + deadline_};
  if (Status status = engine_->submit({&op, 1}); !status.ok()) return status;
  piece.busy = true;
  job.next += piece.bytes;
  return {};
}

// How many completions came.
Result<size_t> TimedStoreFile::receive(Job* job, Nanoseconds timeout) {
  std::array<Completion, 4> completions;
  const Result<size_t> count = engine_->poll(completions, timeout);
  if (!count.ok()) return broken_ = count.status();
  for (size_t i = 0; i < *count; ++i) finish(job, completions[i]);
  return *count;
}

void TimedStoreFile::finish(Job* job, const Completion& completion) {
  const auto piece = std::ranges::find(pieces_, completion.tag, &Piece::tag);
  if (piece == pieces_.end()) return;
  if (completion.event == CompletionEvent::kReleased) {
    piece->late = false;
    return;
  }
  if (!piece->busy) return;
  piece->busy = false;
  piece->late = completion.event == CompletionEvent::kExpired;
  if (completion.code == StatusCode::kOk) {
    if (job->kind == IoKind::kRead)
      std::memcpy(job->to.data() + piece->at, piece->buffer.data(), piece->bytes);
    return;
  }
  if (!job->failure.ok()) return;
  job->failure = failed(job->kind, completion.code, completion.os_error);
  job->os_error = completion.os_error;
}

Status TimedStoreFile::failed(IoKind kind, StatusCode code, int os_error) const {
  if (code == StatusCode::kDeadline) {
    return {code, "the store '" + name() + "' could not be " + verb(kind) + " within the deadline"};
  }
  const std::string reason = os_error != 0 ? os_error_text(os_error) : "the file ends early";
  return {StatusCode::kIo, "the store '" + name() + "' cannot be " + verb(kind) + ": " + reason};
}

Result<std::unique_ptr<StoreFile>> open_store_file(const std::string& path, const StoreFileOptions& options,
                                                   const Clock& clock, Budget& budget) {
  Result<std::unique_ptr<NamedFile>> file = open_named_file(path);
  if (!file.ok()) return file.status();
  return TimedStoreFile::open(std::move(*file), options, clock, budget);
}

}  // namespace quire
