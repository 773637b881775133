// A cache's statistics as Prometheus text. Thread safety: any thread.
#pragma once

#include <string>

#include "bindings/c/quire.h"
#include "bindings/engine.h"

namespace quire::capi {

// Of stats as fill_stats gave them, and of the engine's latency histograms.
std::string prometheus_text(const Engine& engine, const quire_stats& stats);

}  // namespace quire::capi
