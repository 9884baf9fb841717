// Writes checkpoints in the background.
//
// The stream's thread says what a checkpoint has (`begin`), hands over blocks of state as it comes to write them
// (`add`) and says when these were all (`end`). A thread of the checkpointer's own writes them to a file, syncs it,
// waits until the journal says durably that the batch is complete, and publishes the manifest. Batches go on meanwhile.
// One checkpoint is in the making at a time.
//
// Threads: all members on the stream's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/runtime/runtime.h"
#include "sluice/stream/checkpoint.h"
#include "sluice/stream/log.h"

namespace sluice::detail {

class Checkpointer {
 public:
  struct Options {
    std::string directory;
    std::uint64_t epoch = 0;
    /// The next checkpoint goes on with this chain; empty: it is a base of its own.
    std::vector<StateFileInfo> chain;
    /// Batches that must stay replayable: a checkpoint that is this much older than the newest is kept.
    Duration keep{};
    std::function<bool()> fenced;
  };
  Checkpointer(Runtime& runtime, Log& journal, Options options);
  /// Ends the thread; a checkpoint that is not published by then is dropped.
  ~Checkpointer();

  /// Nothing is being written.
  bool idle();
  /// `manifest` without its chain; `journal_end`: how far the journal must be durable. `whole`: all of the state will
  /// be added, not what has changed since the one before.
  void begin(Manifest manifest, std::uint64_t journal_end, bool whole = false);
  /// Instead of `end`: what was begun comes to nothing. The next one must be whole.
  void abandon();
  void add(std::uint32_t operator_index, std::vector<StateBlock> blocks);
  /// State that lies in files: `make` is called on the checkpointer's thread.
  void add(std::function<StateSnapshot()> make);
  void end();
  /// Waits until nothing is being written. Errors: what made writing fail; SLU-209.
  void wait_idle();
  /// Rethrows what made writing fail, once it has.
  void check();
  /// Time of the oldest checkpoint that is kept; nothing before is needed for recovery or replay.
  std::optional<Time> oldest_kept();
  /// Bytes handed over and not written yet.
  std::uint64_t pending_bytes();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sluice::detail
