// Looking into a checkpoint directory from outside: what the command `sluice checkpoint` says. All but `remove` changes
// nothing, and the stream may run meanwhile: what it replaces while it is being read is read again.
#pragma once

#include <string>
#include <vector>

#include "sluice/runtime/clock.h"
#include "sluice/runtime/filesystem.h"

namespace sluice::detail {

/// The directory's application and runs, its checkpoints, newest first, with their sizes, and what the journal has:
/// text for people. Damaged checkpoints are lines as well. Errors: SLU-411 when it is no checkpoint directory, SLU-301
/// to SLU-303 for a FORMAT or a journal that cannot be read, SLU-401. Cost: reads manifests and the journal, no state.
std::string list_checkpoints(FileSystem& files, const std::string& directory);

/// One checkpoint: its operators with kinds, schemas, keys and bytes, its files and inputs. `batch`: batch time in
/// milliseconds; 0: the newest. Errors: SLU-306 when there is none of that batch; those of reading it. Cost: reads its
/// state twice, once to check it; of what lies in RocksDB it looks at the files' sizes alone.
std::string show_checkpoint(FileSystem& files, const std::string& directory, long long batch);

/// What a verification found.
struct Verified {
  /// A line each, with path and place.
  std::vector<std::string> problems;
  /// What was read.
  std::size_t checkpoints = 0;
  std::size_t journal_records = 0;
  std::size_t blocks = 0;
  std::size_t owed = 0;
};
/// Reads everything there is and checks it: manifests, state, journal, log of blocks, owed outputs. Errors: SLU-411
/// when it is no checkpoint directory, SLU-401.
Verified verify_checkpoints(FileSystem& files, const std::string& directory);

/// Removes the checkpoint of a batch, so that the one before it is used. Its state files are removed by the next run.
/// Errors: SLU-306 when there is none of that batch, or no other one that can be read; SLU-401.
void remove_checkpoint(FileSystem& files, const std::string& directory, long long batch);

}  // namespace sluice::detail
