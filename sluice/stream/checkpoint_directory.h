// A checkpoint directory: everything that a stream keeps to survive a crash, in the hands of one run of it.
//
//     DIR/FORMAT              what the directory is: version, application, seed of the key hash
//     DIR/epochs/N            one a run; who creates the next one fences the runs before
//     DIR/journal/            journal.h
//     DIR/wal/                blocks of receivers (log.h)
//     DIR/checkpoint-*        manifests, and the state files and snapshots they name (checkpoint.h)
//     DIR/work/               where databases of state work (large_state.h); nothing of it is read by another run
//     DIR/owed/               inputs of outputs that failed and must still be delivered
//
// Making an object of this class takes the directory over: the next epoch is created, which fences the run before, if
// it still lives; what that one has recorded is read; a journal and a write-ahead log of this run's own are begun.
//
// Threads: `BlockRecorder` from receivers' threads; all else on the stream's thread (the first calls on that of
// start()).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "sluice/runtime/runtime.h"
#include "sluice/stream/checkpoint.h"
#include "sluice/stream/checkpointer.h"
#include "sluice/stream/input.h"
#include "sluice/stream/journal.h"

namespace sluice::detail {

/// What DIR/FORMAT says.
struct CheckpointFormat {
  std::string app;
  std::uint64_t hash_seed = 0;
  std::uint32_t key_groups = 0;
};
/// nullopt when there is none: this is no checkpoint directory. Errors: SLU-301, SLU-302, SLU-303, SLU-305, SLU-401.
std::optional<CheckpointFormat> read_checkpoint_format(FileSystem& files, const std::string& directory);
/// Numbers of the last runs, in their order.
std::vector<std::uint64_t> list_epochs(FileSystem& files, const std::string& directory);

struct CheckpointDirectoryOptions {
  std::string path;
  std::string app;
  std::uint64_t hash_seed = 0;
  /// Build of the program.
  std::uint64_t build = 0;
  Duration interval{};
  /// Blocks of receivers are logged.
  bool wal = true;
  /// Batches whose input and state are kept for replay.
  std::uint64_t keep_batches = 0;
  /// Looks and changes nothing: for replay and dry runs.
  bool read_only = false;
};

class CheckpointDirectory {
 public:
  /// Takes the directory over; makes it if it is new. Errors: SLU-118 for another application's or another seed,
  /// SLU-303, SLU-306, those of reading the journal, SLU-401.
  CheckpointDirectory(Runtime& runtime, CheckpointDirectoryOptions options);
  ~CheckpointDirectory();

  // ---- what was recorded before this run

  bool is_new() const { return !manifest_.has_value(); }
  const JournalContent& journal_content() const { return content_; }
  /// The newest readable checkpoint, or with `before` the newest of a batch before that.
  const std::optional<Manifest>& manifest() const { return manifest_; }
  /// Takes an older one. False when there is none.
  bool choose_manifest_before(Time time);
  /// What was wrong with newer checkpoints.
  const std::vector<std::string>& damage() const { return damage_; }
  /// Calls `begin`, which reads snapshots, then f for each block of the chosen checkpoint, oldest first. When something
  /// is damaged, an older checkpoint is chosen and SLU-306 is thrown if there is none; false tells to begin again.
  /// Errors: what they throw that is no damage.
  bool read_state(const std::function<void()>& begin,
                  const std::function<void(const CheckpointOperator&, StateBlock&&)>& f);

  // ---- this run

  std::uint64_t epoch() const { return epoch_; }
  const std::string& path() const { return options_.path; }
  std::string wal_path() const { return options_.path + "/wal"; }
  std::string owed_path() const { return options_.path + "/owed"; }
  /// True when another run has taken over.
  bool fenced();
  /// Begins journal, write-ahead log and checkpoints. Identities in the order in which they are numbered from now on.
  void begin_run(Time zero, std::vector<std::string> inputs, std::vector<std::string> outputs, bool whole_base);
  Journal& journal() { return *journal_; }
  Checkpointer& checkpointer() { return *checkpointer_; }
  /// Blocks of this run have larger numbers than this, and than those of earlier runs.
  std::uint64_t first_block_number() const;
  /// For the input with that number; nullptr without a write-ahead log.
  std::shared_ptr<BlockRecorder> recorder(std::size_t input);

  /// Waits until all that was recorded up to now is durable: blocks and journal.
  void wait_durable();
  /// Removes what no checkpoint needs any more. `held_for`: how long before a batch inputs are asked for.
  void clean(Duration held_for);

 private:
  class Recorder;
  void read_format();
  void take_epoch();
  void find_manifest();
  void drop_blocks_without_bytes();
  void remove_owed_strays();

  Runtime& runtime_;
  const CheckpointDirectoryOptions options_;
  std::uint64_t epoch_ = 0;
  JournalContent content_;
  /// Manifests before that alone are looked at.
  std::optional<Time> before_;
  std::optional<Manifest> manifest_;
  std::string manifest_path_;
  std::set<std::string> unreadable_;
  std::vector<std::string> damage_;
  LogContent wal_content_;
  std::unique_ptr<Log> wal_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<Checkpointer> checkpointer_;
  std::optional<Time> cleaned_;
};

}  // namespace sluice::detail
