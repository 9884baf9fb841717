// A receiver on an executor: its blocks lie there, and on a second one, and the driver knows of them.
//
//     executor                                              driver
//     receiver -> channel -> ReceiverService  -- added -->  RemoteReceiver -> ReceivedBlocks -> batches
//                                             <-- seal, stored, released --
//
// At a batch time the driver asks for what has come in until then (`seal`) and waits for it, so that a batch has the
// records that it would have in one process. Times are those of the executor's clock.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "sluice/core/engine.h"
#include "sluice/core/service.h"
#include "sluice/stream/receiver.h"

namespace sluice::detail {

/// Where the receiver of an input runs. Threads: the stream's.
class ReceiverRun {
 public:
  virtual ~ReceiverRun() = default;
  /// Lets what has come in until then become blocks; `await_sealed` returns when they are in ReceivedBlocks. Of
  /// Time::max(): all that has been stored.
  virtual void seal(Time time) = 0;
  virtual void await_sealed() = 0;
  /// Batches are done with blocks of so many bytes of that origin (ReceivedBlock).
  virtual void release(std::uint64_t origin, std::size_t bytes) = 0;
  /// Returns when nothing more can arrive.
  virtual void stop() = 0;
};

struct ReceiverServiceOptions {
  Duration restart_delay{};
  /// Of this receiver alone.
  std::uint64_t memory_bytes = 0;
  /// The driver wants the bytes of blocks, for its write-ahead log.
  bool is_recorded = false;
  /// Where it is to run, each time that it is started, if there is a free core; empty: anywhere.
  std::string preferred_host{};
};

/// Starts the receiver on an executor, and again on another one when that is lost, until `stop` or the end of its
/// source. `blocks` outlives it.
std::unique_ptr<ReceiverRun> run_on_executor(Engine& engine, Shipped<ReceiverProgram> program,
                                             const ReceiverServiceOptions& options, ReceivedBlocks& blocks);

}  // namespace sluice::detail
