// Checkpoints on disk: the state of all operators as of one batch, and where inputs stood.
//
// A checkpoint is a manifest, `checkpoint-TIME-EPOCH`, and a chain of state files: a base and the deltas written since.
// Each state file is written once, synced, and never changed; a manifest is published by rename when all its files are
// on the disk. So a checkpoint is there whole or not at all, and an older one stays readable until nothing needs it.
// When the deltas of a chain outweigh its base, they are merged into a new base (state_chain.h). State that lies in a
// database (large_state.h) is not in the chain: the manifest names a directory with all of it. (Format:
// docs/formats.md, "Checkpoint directories".)
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
#include "sluice/runtime/errors.h"
#include "sluice/runtime/filesystem.h"

namespace sluice::detail {

/// Kind, in its schema, of a stream whose past RDDs are kept.
inline constexpr std::string_view kept_kind = "kept";

/// An operator with state, or a stream whose past RDDs are kept, as a checkpoint has it. A stream that is both is there
/// twice under the same name.
struct CheckpointOperator {
  std::string name;
  StateSchema schema;
  /// Partitions it had; loading into others is possible.
  std::uint64_t partitions = 0;
  /// The batch of the operator whose outcome it is: the last time that a window slid, however many of its times were
  /// left out since then. 0: that of the checkpoint.
  std::int64_t batch = 0;
  friend bool operator==(const CheckpointOperator&, const CheckpointOperator&) = default;
};

/// A file of a snapshot, which never changes.
struct SnapshotFile {
  std::string name;
  std::uint64_t bytes = 0;
  /// CRC32C of all of it.
  std::uint32_t checksum = 0;
  friend bool operator==(const SnapshotFile&, const SnapshotFile&) = default;
};

/// All of an operator's state as of a checkpoint, as files in a directory of their own (large_state.h). They are
/// written by the database that reads them, and may be hard links to those of other snapshots.
struct StateSnapshot {
  /// In Manifest::operators.
  std::uint32_t operator_index = 0;
  /// Name in the checkpoint directory.
  std::string directory;
  /// About how many: for people.
  std::uint64_t keys = 0;
  std::vector<SnapshotFile> files;
  friend bool operator==(const StateSnapshot&, const StateSnapshot&) = default;
};

/// Part of a chain.
struct StateFileInfo {
  /// Name in the directory.
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t blocks = 0;
  bool base = false;
  friend bool operator==(const StateFileInfo&, const StateFileInfo&) = default;
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
  /// Of the operators whose state does not lie in the chain.
  std::vector<StateSnapshot> snapshots;
  friend bool operator==(const Manifest&, const Manifest&) = default;
};

/// The snapshot of the operator with that index; nullptr when its state lies in the chain.
const StateSnapshot* snapshot_of(const Manifest& manifest, std::size_t operator_index);
/// How the names of their directories begin.
inline constexpr std::string_view snapshot_prefix = "snapshot-";
/// Name of the directory of a snapshot.
std::string snapshot_name(Time time, std::uint64_t epoch, std::size_t operator_index);
/// Looks whether the files of a snapshot are there and as long as they were; reads small ones, with `all` the others
/// too, and compares their checksums. Errors: SLU-301, SLU-302, SLU-401.
void check_snapshot(FileSystem& files, const std::string& directory, const StateSnapshot& snapshot, bool all);

/// Name of its file: sorts by time, then epoch.
std::string manifest_name(Time time, std::uint64_t epoch);
/// Publishes it. Returns when it is durable. Errors: SLU-305, SLU-401.
void write_manifest(FileSystem& files, const std::string& directory, const Manifest& manifest);
/// Errors: SLU-301 also when it is not the one that its name says; SLU-302, SLU-303, SLU-305, SLU-401, SLU-411.
Manifest read_manifest(FileSystem& files, const std::string& path);
/// Whether an error of reading says that what lies on the disk is damaged or missing. Otherwise the disk cannot be read
/// now, or not by this program, and what it holds may be whole.
bool is_damage(const Error& error);
/// Paths of all manifests, newest first. Other files are no manifests, also if their names begin like those of one.
std::vector<std::string> list_manifests(FileSystem& files, const std::string& directory);

/// Writes a state file block by block. Nothing has its name before `finish`.
class StateFileWriter {
 public:
  /// Blocks name operators by their index here.
  StateFileWriter(FileSystem& files, std::string directory, std::string name, bool base,
                  const std::vector<CheckpointOperator>& operators);
  /// Removes what was written, unless finished.
  ~StateFileWriter();
  /// Errors: SLU-305 for a block that could not be read back; SLU-401.
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

/// A block of a state file, and where its content lies there.
struct StateBlockAt {
  StateBlock::What what{};
  std::uint32_t operator_index = 0;
  std::uint32_t group = 0;
  std::int64_t batch = 0;
  std::uint64_t offset = 0;
  std::string_view bytes;
};
/// Calls f(operators of the file, block) for each block of the file, in order; the block's bytes are valid during the
/// call. What has been given is no damage; what comes after it may be. Errors: as read_manifest; SLU-301 also when the
/// file is not the one the manifest names (size, number of blocks).
void scan_state_file(FileSystem& files, const std::string& directory, const StateFileInfo& info,
                     const std::function<void(const std::vector<CheckpointOperator>&, const StateBlockAt&)>& f);
/// The same with f(operator, block).
void read_state_file(FileSystem& files, const std::string& directory, const StateFileInfo& info,
                     const std::function<void(const CheckpointOperator&, StateBlock&&)>& f);

}  // namespace sluice::detail
