// What TLS costs: one connection with it and without, on loopback.
#pragma once

#include <vector>

#include "benchmarks/sample.h"

namespace bench {

/// Writes of 1 MiB and round trips of 100 bytes over TCP, a unix socket and TLS, which take turns.
std::vector<Figure> network_figures(bool quick);

}  // namespace bench
