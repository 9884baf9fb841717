// What executors in processes of their own cost beside threads of one.
#pragma once

#include <vector>

#include "benchmarks/sample.h"

namespace bench {

/// W1, W2 and W4 on local-cluster[2,1] by local[2], each with its input where the tasks run: files in the page cache,
/// events made in each process. And what an empty batch and small ones take there.
std::vector<Figure> cluster_figures(bool quick);

}  // namespace bench
