// What a driver of many executors costs: docs/scale.md reckons with it.
#pragma once

#include <string>
#include <vector>

#include "benchmarks/sample.h"

namespace bench {

/// CPU of the driver alone for 8, 100 and 1,000 executors, which are threads of one other process and speak TLS with
/// it: until all have come, for a sign of life, for a task; and for tasks that read a shuffle of many partitions.
std::vector<Figure> nodes_figures(bool quick);

/// That other process: `--nodes COUNT DRIVER CERTIFICATES`.
void run_nodes(const std::string& count, const std::string& driver, const std::string& certificates);

}  // namespace bench
