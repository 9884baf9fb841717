// What durability costs: the write-ahead log, checkpoints, recovery. All on the disk that has the system's temporary
// directory, and beside what that disk can do.
#pragma once

#include <string>
#include <vector>

#include "benchmarks/sample.h"

namespace bench {

/// The disk alone: appends with a sync each.
std::vector<Figure> disk_figures(bool quick);
/// W2 at a 10 ms interval with a checkpoint directory: how long after its time a batch is done.
std::vector<Figure> short_interval_figures(bool quick);
/// 1 M keys, 1 % of them changed a batch, a checkpoint every 10 batches of 100 ms: how long a batch takes.
std::vector<Figure> checkpoint_figures(bool quick);
/// From the start of a process to its first new batch, when the one before was killed with 630,000 keys.
std::vector<Figure> recovery_figures(bool quick);
/// W1 and W2 over a socket, with the write-ahead log and without.
std::vector<Figure> wal_figures(bool quick);
/// CPU time of W2, W3 and W4 at about half of what the machine can do, with durability by that without.
std::vector<Figure> cost_figures(bool quick);

/// The processes of `recovery_figures`.
[[noreturn]] void fill_state_and_die(const std::string& directory);
void recover_state(const std::string& directory);

}  // namespace bench
