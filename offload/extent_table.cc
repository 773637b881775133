#include "offload/extent_table.h"

#include <algorithm>
#include <bit>

namespace quire {
namespace {

// Bytes on disk of an extent that holds nothing but this run.
uint64_t extent_bytes_for(uint64_t run_bytes) {
  return std::max<uint64_t>(kMinExtentBytes, std::bit_ceil(kExtentHeaderBytes + run_align_up(run_bytes)));
}

// Bytes of the extent that follows, for a run of that size; `grown` is what the stream has grown to.
uint32_t next_extent_bytes(uint32_t grown, uint64_t run_bytes, size_t pages) {
  // An extent lists a limited number of pages: of small pages a larger extent would stay half empty.
  const uint64_t fillable = std::bit_floor(kExtentHeaderBytes + kMaxExtentEntries * (run_bytes / pages));
  return static_cast<uint32_t>(std::max(extent_bytes_for(run_bytes), std::min<uint64_t>(grown, fillable)));
}

}  // namespace

size_t ExtentTable::HashStream::operator()(const StreamId& id) const {
  return std::hash<uint64_t>()(id.sequence * 0x9e3779b97f4a7c15 + id.layer);
}

Status ExtentTable::reserve(StreamId stream, std::span<const PutPage> pages, std::span<Place> places) {
  uint64_t bytes = 0;
  for (const PutPage& page : pages) bytes += page.length;
  if (bytes > kMaxExtentBytes - kExtentHeaderBytes || pages.size() > kMaxExtentEntries) {
    return invalid("a run of " + std::to_string(pages.size()) + " pages and " + std::to_string(bytes) +
                   " bytes does not fit into one extent; write at most " + std::to_string(kMaxExtentEntries) +
                   " pages and " + std::to_string(kMaxExtentBytes - kExtentHeaderBytes) + " bytes at once");
  }
  auto found = extent_for(stream, bytes, pages.size());
  if (!found.ok()) return found.status();
  Extent& extent = extents_.at(*found);
  uint64_t offset = offset_of(*found) + extent.filled;
  for (size_t i = 0; i < pages.size(); ++i) {
    places[i] = {offset, pages[i].length, *found, extent.generation};
    offset += pages[i].length;
  }
  extent.filled += static_cast<uint32_t>(run_align_up(bytes));
  extent.pages += static_cast<uint32_t>(pages.size());
  extent.live_bytes += bytes;
  live_bytes_ += bytes;
  ++extent.writes;
  return {};
}

// The stream's open extent, or a fresh one when that is too full.
Result<uint32_t> ExtentTable::extent_for(StreamId stream, uint64_t bytes, size_t pages) {
  if (const auto known = streams_.find(stream); known != streams_.end() && known->second.open) {
    const uint32_t open = *known->second.open;
    const Extent& extent = extents_.at(open);
    if (extent.filled + run_align_up(bytes) <= extent.bytes && extent.pages + pages <= kMaxExtentEntries)
      return open;
  }
  return open_extent(stream, bytes, pages);
}

Result<uint32_t> ExtentTable::open_extent(StreamId stream, uint64_t bytes, size_t pages) {
  const auto known = streams_.find(stream);
  const uint32_t grown = known == streams_.end() ? kMinExtentBytes : known->second.next_bytes;
  const uint64_t least = extent_bytes_for(bytes);
  const uint32_t granted = allocator_.largest(next_extent_bytes(grown, bytes, pages));
  if (granted < least || next_generation_ == UINT32_MAX) {
    return Status(StatusCode::kOverBudget, "the disk tier has no room for " + std::to_string(bytes) +
                                               " bytes: " + std::to_string(allocator_.used()) + " of " +
                                               std::to_string(allocator_.capacity()) +
                                               " are in use; raise nvme_budget or free sequences");
  }
  const auto extent = static_cast<uint32_t>(*allocator_.allocate(granted) / kMinExtentBytes);
  if (known != streams_.end() && known->second.open) close(*known->second.open);
  Stream& entry = streams_[stream];
  entry.open = extent;
  ++entry.extents;
  entry.next_bytes = std::min(std::max(granted, grown) * 2, kMaxExtentBytes);
  Extent& fresh = extents_[extent];
  fresh.bytes = granted;
  fresh.generation = next_generation_++;
  fresh.stream = stream;
  return extent;
}

void ExtentTable::close(uint32_t extent) {
  extents_.at(extent).open = false;
  closed_.push_back(extent);
}

void ExtentTable::commit(std::span<const PutPage> pages, std::span<const Place> places) {
  const uint32_t id = places.front().extent;
  auto& entries = extents_.at(id).entries;
  for (size_t i = 0; i < pages.size(); ++i) {
    entries.push_back({pages[i].index, static_cast<uint32_t>(places[i].offset - offset_of(id)),
                       pages[i].length, pages[i].checksum, pages[i].compressed});
  }
}

void ExtentTable::drop(std::span<const Place> places) {
  for (const Place& place : places) {
    if (!valid(place)) continue;
    Extent& extent = extents_.at(place.extent);
    if (place.length > extent.live_bytes) continue;  // dropped twice
    extent.live_bytes -= place.length;
    live_bytes_ -= place.length;
    release_if_idle(place.extent);
  }
}

void ExtentTable::end_write(uint32_t extent) {
  --extents_.at(extent).writes;
  release_if_idle(extent);
}

void ExtentTable::release_if_idle(uint32_t extent) {
  const auto found = extents_.find(extent);
  const Extent& idle = found->second;
  if (idle.live_bytes > 0 || idle.writes > 0) return;
  const auto stream = streams_.find(idle.stream);
  if (idle.open) stream->second.open.reset();
  if (--stream->second.extents == 0) streams_.erase(stream);
  std::erase(closed_, extent);
  allocator_.free(offset_of(extent), idle.bytes);
  extents_.erase(found);
}

bool ExtentTable::valid(const Place& place) const {
  const auto found = extents_.find(place.extent);
  if (found == extents_.end() || found->second.generation != place.generation) return false;
  const uint64_t begin = offset_of(place.extent);
  return place.length > 0 && place.offset >= begin + kExtentHeaderBytes &&
         place.offset + place.length <= begin + found->second.filled;
}

std::optional<ExtentHeader> ExtentTable::take_header() {
  const auto due = std::find_if(closed_.begin(), closed_.end(),
                                [this](uint32_t id) { return extents_.at(id).writes == 0; });
  if (due == closed_.end()) return std::nullopt;
  const uint32_t id = *due;
  closed_.erase(due);
  Extent& extent = extents_.at(id);
  ++extent.writes;
  // Runs end in any order; the header lists pages as they lie.
  std::sort(extent.entries.begin(), extent.entries.end(),
            [](const ExtentEntry& a, const ExtentEntry& b) { return a.offset < b.offset; });
  return ExtentHeader{offset_of(id), extent.bytes, extent.generation, extent.stream,
                      std::move(extent.entries)};
}

Tier::Room ExtentTable::room(StreamId stream, uint32_t page_bytes) const {
  uint32_t grown = kMinExtentBytes;
  if (const auto known = streams_.find(stream); known != streams_.end()) {
    grown = known->second.next_bytes;
    if (known->second.open) {
      const Extent& open = extents_.at(*known->second.open);
      const Tier::Room left{kMaxExtentEntries - open.pages, open.bytes - open.filled, 0};
      if (left.pages > 0 && left.bytes >= page_bytes) return left;
    }
  }
  const uint64_t least = extent_bytes_for(page_bytes);
  if (least > kMaxExtentBytes) return {};
  const uint32_t granted = allocator_.largest(next_extent_bytes(grown, page_bytes, 1));
  if (granted < least) return {};
  return {kMaxExtentEntries, granted - kExtentHeaderBytes, kExtentHeaderBytes};
}

uint64_t ExtentTable::table_bytes() const {
  // Of a node of an unordered_map: the value, its key, two pointers and the heap's own.
  constexpr uint64_t kNodeBytes = 40;
  uint64_t bytes = allocator_.table_bytes() + closed_.capacity() * sizeof(uint32_t);
  bytes += extents_.size() * (sizeof(Extent) + kNodeBytes) + extents_.bucket_count() * sizeof(void*);
  bytes += streams_.size() * (sizeof(Stream) + kNodeBytes) + streams_.bucket_count() * sizeof(void*);
  for (const auto& [id, extent] : extents_) bytes += extent.entries.capacity() * sizeof(ExtentEntry);
  return bytes;
}

}  // namespace quire
