// Checkpoints on disk: the state of all operators as of one batch, and where inputs stood.
//
// A checkpoint is a manifest, `checkpoint-TIME-EPOCH`, and a chain of state files: a base and the deltas written since.
// Each state file is written once, synced, and never changed; a manifest is published by rename when all its files are
// on the disk. So a checkpoint is there whole or not at all, and an older one stays readable until nothing needs it.
// When the deltas of a chain outweigh its base, they are merged into a new base: types are not needed for that (see
// StateBlock). (Format: docs/formats.md, "Checkpoints".)
//
// Invariants:
//  C1. The manifest of batch C is published only when the journal says durably that C is complete.
//  C2. A file is removed only when no manifest that is kept names it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/core/stores.h"
#include "sluice/runtime/clock.h"
#include "sluice/runtime/filesystem.h"

namespace sluice::detail {

/// An operator with state, or a stream whose past RDDs are kept, as a checkpoint has it.
struct CheckpointOperator {
  std::string name;
  StateSchema schema;
  /// Partitions it had; loading into others is possible.
  std::uint64_t partitions = 0;
};

/// Part of a chain.
struct StateFileInfo {
  /// Name in the directory.
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t blocks = 0;
  bool base = false;
};

struct Manifest {
  /// The batch whose outcome it is; the zero time of a stream that has not run yet.
  Time time{};
  std::uint64_t epoch = 0;
  std::uint64_t build = 0;
  std::string app;
  Time zero{};
  Duration interval{};
  std::uint64_t hash_seed = 0;
  std::vector<CheckpointOperator> operators;
  /// By identity: what the input saved.
  std::map<std::string, std::string> inputs;
  /// Oldest first.
  std::vector<StateFileInfo> chain;
};

/// Name of its file: sorts by time, then epoch.
std::string manifest_name(Time time, std::uint64_t epoch);
/// Publishes it. Returns when it is durable.
void write_manifest(FileSystem& files, const std::string& directory, const Manifest& manifest);
/// Errors: SLU-301, SLU-302, SLU-303, SLU-401, SLU-411.
Manifest read_manifest(FileSystem& files, const std::string& path);
/// Paths of all manifests, newest first.
std::vector<std::string> list_manifests(FileSystem& files, const std::string& directory);

/// Writes a state file block by block. Nothing has its name before `finish`.
class StateFileWriter {
 public:
  /// Blocks name operators by their index here.
  StateFileWriter(FileSystem& files, std::string directory, std::string name, bool base,
                  const std::vector<CheckpointOperator>& operators);
  /// Removes what was written, unless finished.
  ~StateFileWriter();
  void add(std::uint32_t operator_index, const StateBlock& block);
  /// Returns when the file is durable under its name.
  StateFileInfo finish();

 private:
  void flush();
  FileSystem& files_;
  const std::string directory_;
  StateFileInfo info_;
  std::string temporary_;
  std::unique_ptr<File> file_;
  std::string buffer_;
  bool finished_ = false;
};

/// Calls f(operator, block) for each block of the file, in order. Errors: as read_manifest; SLU-301 also when the file
/// is not the one the manifest names (size, number of blocks).
void read_state_file(FileSystem& files, const std::string& directory, const StateFileInfo& info,
                     const std::function<void(const CheckpointOperator&, StateBlock&&)>& f);

/// Merges a chain into one base file: the last of what each key has; logs that have left their window are dropped. An
/// operator must have the same schema in all files. Memory: one key group at a time. Cost: reads the chain twice.
StateFileInfo merge_chain(FileSystem& files, const std::string& directory, const Manifest& manifest,
                          const std::string& name);

}  // namespace sluice::detail
