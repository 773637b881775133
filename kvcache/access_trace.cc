#include "kvcache/access_trace.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <type_traits>

namespace quire {
namespace {

static_assert(std::endian::native == std::endian::little);
static_assert(std::is_trivially_copyable_v<AccessEvent>);

constexpr char kMagic[] = "QUIREACC";
constexpr uint32_t kVersion = 1;
constexpr size_t kMassesPerEvent = 16;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t zero;
  uint64_t events;
  uint64_t masses;
};
static_assert(sizeof(Header) == 32);

template <typename T>
bool read_vector(std::ifstream& in, uint64_t count, std::vector<T>* out) {
  out->resize(count);
  in.read(reinterpret_cast<char*>(out->data()), static_cast<std::streamsize>(count * sizeof(T)));
  return in.good() || count == 0;
}

Status not_a_trace(const std::string& path) {
  return invalid(path + " is no whole access trace; record one with quire-trace --record or --access-trace");
}

bool sound(const AccessLog& log) {
  for (const AccessEvent& event : log.events) {
    const auto masses = static_cast<uint64_t>(std::popcount(event.wanted));
    const bool has_masses = event.has_mass == 0 || (event.first_mass <= log.masses.size() &&
                                                    masses <= log.masses.size() - event.first_mass);
    if (event.kind > AccessKind::kFree || !has_masses || event.page > UINT32_MAX - kMassesPerEvent)
      return false;
  }
  return true;
}

}  // namespace

void AccessTrace::record(AccessEvent event, std::span<const float> mass) {
  const bool full =
      log_.events.size() >= capacity_ || log_.masses.size() + mass.size() > capacity_ * kMassesPerEvent;
  // A trace with a hole would replay wrongly: once full, always full.
  if (full || dropped_ > 0) {
    ++dropped_;
    return;
  }
  event.has_mass = mass.empty() ? 0 : 1;
  event.first_mass = log_.masses.size();
  log_.events.push_back(event);
  log_.masses.insert(log_.masses.end(), mass.begin(), mass.end());
}

Status AccessTrace::write(const std::string& path) const {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof header.magic);
  header.version = kVersion;
  header.events = log_.events.size();
  header.masses = log_.masses.size();
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  const auto put = [&](const void* data, size_t bytes) {
    out.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  };
  put(&header, sizeof header);
  put(log_.events.data(), log_.events.size() * sizeof(AccessEvent));
  put(log_.masses.data(), log_.masses.size() * sizeof(float));
  out.close();
  if (out) return {};
  return {StatusCode::kIo,
          "cannot write the access trace to " + path + "; name a file in a directory that can be written"};
}

Result<AccessLog> read_access_log(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return Status(StatusCode::kIo, "cannot read " + path + "; name an access trace");
  const auto size = static_cast<uint64_t>(in.tellg());
  in.seekg(0);
  Header header{};
  in.read(reinterpret_cast<char*>(&header), sizeof header);
  const bool known =
      in.good() && std::memcmp(header.magic, kMagic, sizeof header.magic) == 0 && header.version == kVersion;
  if (!known || header.events > size / sizeof(AccessEvent) || header.masses > size / sizeof(float) ||
      size != sizeof header + header.events * sizeof(AccessEvent) + header.masses * sizeof(float)) {
    return not_a_trace(path);
  }
  AccessLog log;
  if (!read_vector(in, header.events, &log.events) || !read_vector(in, header.masses, &log.masses) ||
      !sound(log)) {
    return not_a_trace(path);
  }
  return log;
}

}  // namespace quire
