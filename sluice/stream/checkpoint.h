// Checkpoints on disk: the state of all operators as of one batch, and where inputs stood.
//
// A checkpoint is a manifest, `checkpoint-TIME-EPOCH`, and a chain of state files: a base and the deltas written since.
// Each state file is written once, synced, and never changed; a manifest is published by rename when all its files are
// on the disk. So a checkpoint is there whole or not at all, and an older one stays readable until nothing needs it.
// When the deltas of a chain outweigh its base, they are merged into a new base (state_chain.h). (Format:
// docs/formats.md, "Checkpoints".)
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
  friend bool operator==(const Manifest&, const Manifest&) = default;
};

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
