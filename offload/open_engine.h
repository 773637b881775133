// Opens the io engine that the options ask for. kAuto: io_uring, or threads where the kernel refuses it; the
// engine's note() says why. Thread safety: a free function without state.
#pragma once

#include "offload/io_engine.h"

namespace quire {

Result<std::unique_ptr<IoEngine>> open_io_engine(const IoEngineOptions& options, const Clock& clock);

}  // namespace quire
