// Statistics as the C API reports them, gathered from all parts of an engine.
// Thread safety: any thread.
#pragma once

#include "bindings/c/quire.h"
#include "bindings/engine.h"

namespace quire::capi {

void fill_stats(Engine& engine, quire_stats* out);

}  // namespace quire::capi
