#include "offload/io_engine.h"

namespace quire {

Status check_options(const IoEngineOptions& options) {
  if (options.depth == 0 || options.depth > kMaxIoDepth) {
    return invalid("the io depth is " + std::to_string(options.depth) + "; choose one from 1 to " +
                   std::to_string(kMaxIoDepth));
  }
  if (options.files.empty()) return invalid("an io engine needs at least one file");
  return {};
}

Status check_ops(std::span<const IoOp> ops, size_t file_count) {
  for (const IoOp& op : ops) {
    if (op.file >= file_count) {
      return invalid("an operation names file " + std::to_string(op.file) + "; the engine has " +
                     std::to_string(file_count));
    }
    if (op.kind != IoKind::kSync && op.buffer.empty()) return invalid("a read or write has an empty buffer");
    if (op.offset > uint64_t{INT64_MAX} - op.buffer.size()) {
      return invalid("an operation ends beyond the largest file offset");
    }
  }
  return {};
}

}  // namespace quire
