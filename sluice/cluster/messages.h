// What driver and executors say to each other.
//
//     driver <-> executor     Hello/Welcome; then tasks, services, requests about state, signs of life (executor.h)
//     executor <-> executor   Hello/Welcome; then buckets of shuffles, changes of state, blocks (peer_connections.h)
//
// All run the same binary (its build id is compared), so messages need no version each: the protocol's is said once.
// How a struct here becomes bytes: core/message.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/core/message.h"
#include "sluice/core/state.h"
#include "sluice/core/stores.h"
#include "sluice/core/task_runner.h"
#include "sluice/runtime/errors.h"

namespace sluice::detail {

inline constexpr std::uint32_t protocol_version = 2;

/// Number of an executor, never used again when it is gone: a process that comes back is another one. 0: none.
using ExecutorId = std::uint32_t;

template <class T>
bool contains(const std::vector<T>& all, const T& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

/// The first of `ids` that has the smallest number in `counts` (none: 0); 0 when there is none.
inline ExecutorId fewest(const std::vector<ExecutorId>& ids, std::map<ExecutorId, std::size_t>& counts) {
  const auto found =
      std::min_element(ids.begin(), ids.end(), [&counts](ExecutorId a, ExecutorId b) { return counts[a] < counts[b]; });
  return found == ids.end() ? 0 : *found;
}

/// First message of who connects.
struct Hello {
  static constexpr std::uint8_t kind = 1;
  std::uint32_t version = protocol_version;
  std::uint64_t build = 0;
  /// Shared by driver and executors of one application; nobody else knows it.
  std::string token;
  /// Of an executor that has one.
  ExecutorId id = 0;
  /// Of an executor, where others reach it, and the cores it has; 0 when it speaks to another executor.
  std::string address;
  std::uint32_t cores = 0;
  std::int64_t pid = 0;
  /// Of an executor: what its machine calls itself.
  std::string host;
};

/// The answer.
struct Welcome {
  static constexpr std::uint8_t kind = 2;
  /// Why not; empty when all is well.
  std::string refusal;
  ExecutorId id = 0;
  /// Time between two signs of life.
  Duration heartbeat{};
  std::uint64_t hash_seed = 0;
  bool check_views = false;
  /// Of a stream that has begun: see StateRequest::What::resume.
  std::string application;
  std::uint64_t epoch = 0;
};

/// Who has come, and where it is, and who is gone since the last one. To one that has come: all that there are.
/// Connections to those that are gone are given up.
struct Peers {
  static constexpr std::uint8_t kind = 3;
  struct Peer {
    ExecutorId id = 0;
    std::string address;
  };
  std::vector<Peer> come;
  std::vector<ExecutorId> gone;
};

/// Where the map partitions of a shuffle are.
struct ShuffleAt {
  std::uint64_t shuffle = 0;
  std::vector<ExecutorId> executors;
  /// Some are not there yet: tasks that make them have been given out.
  bool is_to_come = false;
};

/// Where a block is.
struct BlockAt {
  BlockId block;
  ExecutorId executor = 0;
};

/// A task to be run.
struct RunTask {
  /// For TaskDone.
  std::uint64_t ticket = 0;
  std::uint64_t job = 0;
  std::uint32_t stage = 0;
  std::uint32_t task = 0;
  std::uint32_t attempt = 0;
  std::int64_t batch = 0;
  /// Map partitions of the shuffles it writes.
  std::vector<std::pair<std::uint64_t, std::uint32_t>> writes;
  /// Of the shuffles it reads.
  std::vector<ShuffleAt> reads;
  /// Operations whose state must be there already; that of others is made.
  std::vector<std::uint64_t> must_exist;
  /// Keeps a copy of the state that the task changes; 0: none.
  ExecutorId copy_at = 0;
  /// The same for blocks that are kept twice.
  ExecutorId block_copy_at = 0;
  /// Blocks that it reads and that lie elsewhere.
  std::vector<BlockAt> blocks;
  /// TaskProgram.
  std::string program;
};

/// Tasks to be run.
struct RunTasks {
  static constexpr std::uint8_t kind = 4;
  std::vector<RunTask> tasks;
};

/// Nothing will be asked of these any more.
struct Forget {
  static constexpr std::uint8_t kind = 5;
  std::vector<std::uint64_t> shuffles;
  /// From the first to the second.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> block_owners;
  std::vector<std::pair<std::uint64_t, std::uint32_t>> states;
};

/// Tasks with tickets from the first to the last give up.
struct Cancel {
  static constexpr std::uint8_t kind = 6;
  std::uint64_t first = 0;
  std::uint64_t last = 0;
};

/// The program ends: so does the executor.
struct Shutdown {
  static constexpr std::uint8_t kind = 7;
};

/// Something is done with a partition of state; the answer is a StateReply.
struct StateRequest {
  static constexpr std::uint8_t kind = 8;
  enum class What : std::uint8_t {
    /// Makes it anew, empty, with `maker`.
    make,
    load,
    loaded,
    freeze,
    write,
    /// Sends all of it to the executor `number`, which keeps a copy from now on.
    copy,
    /// Sends block (`operation`, `partition`) to the executor `number`, which keeps it from now on, too.
    copy_block,
    /// The copy here, if it is not that already, becomes the state: that after batch `number` at least.
    promote,
    /// The state here, on which no batch is running, becomes a copy.
    demote,
    /// The copy here is not needed any more.
    drop_copy,
    /// The driver of epoch `number` of the application `maker` begins, or one that has none. The answer has what is
    /// kept here since the driver before was lost, and its epoch as `number`. Of blocks of services only `block_owners`
    /// stay, if what is here is of the driver of epoch `batch`, which was the last one.
    resume,
    /// What is kept becomes the state, or the copy: as of batch `number`.
    take_up,
    /// The rest of it goes.
    forget_kept,
  };
  std::uint64_t request = 0;
  What what = What::make;
  std::uint64_t operation = 0;
  std::uint32_t partition = 0;
  std::int64_t number = 0;
  /// Of `copy`: the last batch that is complete.
  std::int64_t batch = 0;
  /// Of `write`: what the `freeze` answered; 0 then: there was nothing.
  std::int64_t frozen = 0;
  /// Of the copy here, not of the state itself.
  bool of_copy = false;
  /// Of `freeze`: all of it counts as changed.
  bool all = false;
  std::vector<StateBlock> blocks;
  StateSchema written;
  /// Shipped<StateMaker>; of `resume` the application.
  std::string maker;
  std::vector<std::uint64_t> block_owners;
};

/// A partition of state that can be had as of one of two batches, of which the second may be 0.
struct KeptState {
  std::uint64_t operation = 0;
  std::uint32_t partition = 0;
  std::int64_t batch = 0;
  std::int64_t waiting_batch = 0;
};

struct StateReply {
  static constexpr std::uint8_t kind = 9;
  std::uint64_t request = 0;
  /// Empty: it succeeded.
  std::string error;
  bool more = false;
  std::int64_t number = 0;
  /// Of `freeze`: the state's last one.
  std::int64_t batch = 0;
  std::vector<StateBlock> blocks;
  std::vector<KeptState> kept;
  /// Of `resume`: those of them that are here.
  std::vector<std::uint64_t> block_owners;
};

/// A task uses a broadcast value that the executor does not have.
struct AskShared {
  static constexpr std::uint8_t kind = 19;
  std::uint64_t id = 0;
};

/// The answer.
struct Shared {
  static constexpr std::uint8_t kind = 20;
  std::uint64_t id = 0;
  /// Empty: `bytes` are the value (core/shared_values.h).
  std::string error;
  std::string bytes;
};

/// A service begins on the executor (core/service.h).
struct StartService {
  static constexpr std::uint8_t kind = 21;
  std::uint64_t id = 0;
  /// Its blocks are kept on two executors.
  bool copies = true;
  /// Shipped<ServiceMaker>.
  std::string maker;
};

/// It is to end.
struct StopService {
  static constexpr std::uint8_t kind = 22;
  std::uint64_t id = 0;
};

/// Of a service to the driver, or of the driver to a service.
struct ServiceMessage {
  static constexpr std::uint8_t kind = 23;
  std::uint64_t id = 0;
  /// Number of the block that comes with it (service_block); 0: none. It lies where the service runs and on `copy`.
  std::uint32_t block = 0;
  ExecutorId copy = 0;
  std::string text;
};

/// The last message of a service.
struct ServiceEnded {
  static constexpr std::uint8_t kind = 24;
  std::uint64_t id = 0;
  /// Empty: as it should.
  std::string why;
};

/// A block of a service. Engines give out ids from 1 on; those from 2^32 on are of such blocks.
inline constexpr std::uint64_t first_service_block = std::uint64_t{1} << 32;
inline BlockId service_block(std::uint64_t service, std::uint32_t number) { return {(service << 32) | number, 0}; }

/// The executor is to end: it does when nothing that it has is needed there any more, and the driver says Shutdown.
struct Leave {
  static constexpr std::uint8_t kind = 25;
};

/// What an executor that was started elsewhere has printed.
struct LogLines {
  static constexpr std::uint8_t kind = 26;
  std::vector<std::string> lines;
  /// So many were printed besides, at any time before, and are not sent: they were too many.
  std::uint64_t dropped = 0;
};

/// The executor lives; the answer, the same, says that the driver does.
struct Heartbeat {
  static constexpr std::uint8_t kind = 10;
};

/// Map partitions of a shuffle that are not on the executor that was said to have them.
struct OutputLost {
  std::uint64_t shuffle = 0;
  ExecutorId executor = 0;
  std::vector<std::uint32_t> maps;
};

/// What a task came to.
struct TaskDone {
  static constexpr std::uint8_t kind = 11;
  enum class How : std::uint8_t { succeeded, failed, block_lost, place_lost, output_lost };
  std::uint64_t ticket = 0;
  How how = How::succeeded;
  /// succeeded: a TaskResult.
  std::string result;
  /// failed: an Error in parts, and the outputs it concerns.
  std::uint32_t code = 0;
  std::string why;
  std::string operation;
  /// encode_place.
  std::string where;
  std::vector<std::uint32_t> failed;
  /// block_lost.
  std::uint64_t block_owner = 0;
  std::uint64_t block_index = 0;
  /// place_lost: who did not give what was there. succeeded: who was to have a copy and has not.
  ExecutorId place = 0;
  /// output_lost.
  std::vector<OutputLost> lost_output;
};

/// Buckets of map partitions for one target.
struct Fetch {
  static constexpr std::uint8_t kind = 12;
  std::uint64_t request = 0;
  std::uint64_t shuffle = 0;
  std::uint32_t target = 0;
  std::vector<std::uint32_t> maps;
  /// What has never been there is waited for.
  bool is_to_come = false;
};

struct Fetched {
  static constexpr std::uint8_t kind = 13;
  std::uint64_t request = 0;
  /// Some have still not come, after a while: it may be asked again.
  bool is_to_come = false;
  /// Map partitions that are not here, of those asked for. None: `buckets` has all.
  std::vector<std::uint32_t> missing;
  /// In the order asked for, packed (core/packed_bucket.h); empty for nullptr.
  std::vector<std::string> buckets;
};

/// What a task has changed of its state, for the copy.
struct StateChanges {
  static constexpr std::uint8_t kind = 14;
  std::uint64_t request = 0;
  std::uint64_t operation = 0;
  std::uint32_t partition = 0;
  std::int64_t batch = 0;
  /// Of a copy that begins here: Shipped<StateMaker>. Empty: there is one.
  std::string maker;
  /// The batch is complete: nothing waits (X2 in executor.h).
  bool complete = false;
  std::vector<StateBlock> blocks;
};

/// A block that is to be kept here, too.
struct KeepBlock {
  static constexpr std::uint8_t kind = 15;
  std::uint64_t request = 0;
  BlockId block;
  std::int32_t level = 0;
  /// encode_type.
  std::string type;
  std::string records;
};

/// The answer to StateChanges and KeepBlock.
struct Taken {
  static constexpr std::uint8_t kind = 16;
  std::uint64_t request = 0;
  /// Empty: it has been taken in.
  std::string error;
};

/// A block's records.
struct FetchBlock {
  static constexpr std::uint8_t kind = 17;
  std::uint64_t request = 0;
  BlockId block;
};

struct FetchedBlock {
  static constexpr std::uint8_t kind = 18;
  std::uint64_t request = 0;
  bool found = false;
  std::string records;
};

/// The records as a block that another executor is to keep.
inline KeepBlock keep_block(const BlockId& block, const RestedRecords& records, Keep level) {
  Encoder type;
  encode_type(&records.type(), type);
  return {0, block, static_cast<std::int32_t>(level), type.take(), encoded(records)};
}

/// The number of a message that begins with one: a question of one executor to another, and its answer.
inline std::uint64_t message_request(std::string_view message) {
  Decoder in(message);
  in.u8();
  return in.u64();
}

/// An answer that has perhaps not come; a damaged one has not.
template <class M>
std::optional<M> decode_answer(std::optional<std::string_view> answer) {
  if (!answer.has_value()) return std::nullopt;
  try {
    return decode_message<M>(*answer);
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace sluice::detail
