// The driver of a stream: graph, clock, batches, life cycle, recovery.
//
// Invariants:
//  D1. Batch times are zero + k * interval; each is run once, in order, none skipped, however late the driver is; but
//      those missed while no driver ran may be left out (MissedBatches).
//  D2. A batch asks every input exactly once, before any of its outputs run; what it gets is in the journal first.
//  D3. Batches run one after the other on the stream's own thread; all events are told on that thread.
//  D4. An RDD of a stream is made at most once per batch and forgotten when nothing can ask for it again.
//  D5. The graph does not change after start().
//  D6. With a checkpoint directory: what an output makes visible is visible only when the batch's input is durable; an
//      output that is recorded as done is not run again; a batch is complete when all its outputs are recorded.
//
// After a restart: the newest checkpoint's state is loaded; batches recorded after it as complete run again for their
// state alone; those that are not complete run again with the same input, without the outputs that are done. The same
// is done in place when executors have ended that had state which nobody else has.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "sluice/core/engine.h"
#include "sluice/core/turns.h"
#include "sluice/stream/checkpoint_directory.h"
#include "sluice/stream/events.h"
#include "sluice/stream/input.h"
#include "sluice/stream/received_blocks.h"
#include "sluice/stream/state_database.h"

namespace sluice::detail {

class StreamNode;
using StreamNodePtr = std::shared_ptr<StreamNode>;

class LargeState;

/// How a stream's state takes part in checkpoints.
struct StateBinding {
  /// In the StateStore.
  std::uint64_t operation = 0;
  std::size_t partitions = 0;
  StateSchema schema;
  /// In memory.
  Shipped<StateMaker> maker;
  /// In a database.
  std::function<std::shared_ptr<StatePartition>(const std::shared_ptr<LargeState>&, std::size_t partition,
                                                std::uint64_t hash_seed)>
      make_large;
  /// Whether state that was written so can be taken up.
  std::function<bool(const StateSchema& written)> fits;
  /// Of state that does not lie in memory; its partitions are parts of it.
  std::shared_ptr<LargeState> large{};
  /// Of state in memory that is taken up from where it did not: reads that.
  OpenDatabase read_large = nullptr;
};

/// One stream: a series of RDDs, one at each multiple of its slide.
class StreamNode {
 public:
  std::shared_ptr<OperatorInfo> info;
  std::vector<StreamNodePtr> parents;
  Duration slide{};
  /// Makes the RDD of a slide time from the parents' (by `at`). Null for inputs, whose RDDs are put by the driver.
  std::function<NodePtr(Time)> compute;
  /// How long RDDs are kept beyond their batch for `window` and the like; parents keep theirs at least as long.
  Duration keep{};
  /// How much longer than `keep` the parents' RDDs are needed.
  Duration reach{};
  /// How far back children ask for its RDDs themselves.
  Duration asked_back{};
  /// Its RDDs of past batches are all there; where there is none, no batch was run (MissedBatches::merge).
  bool past_is_made = false;
  std::optional<Keep> persist;
  /// Its state must be brought up to date at each slide, whether or not an output asks for it.
  bool stateful = false;
  /// Its records can be made in their own batch only, because the state they are read from moves on. Kept RDDs are
  /// therefore persisted.
  bool in_batch_only = false;
  /// Of a stream with state.
  std::optional<StateBinding> state;
  /// Its past RDDs are part of checkpoints under this name; empty: they are made again, or not needed.
  std::string kept_as;
  /// Type of its records, for those.
  const TypeOps* type = nullptr;
  /// Brings kept records by key into as many partitions as it has now; null where that does not matter.
  std::function<NodePtr(Engine&, const NodePtr&)> regroup;

  /// The RDD of `time`, which must be a slide time after the stream's zero time.
  NodePtr at(Engine& engine, Time time);
  void put(Engine& engine, Time time, NodePtr node);
  /// One that is there already, as it is.
  void put_made(Time time, NodePtr node) { made_[time] = std::move(node); }
  /// The RDDs that there are.
  const std::map<Time, NodePtr>& made() const { return made_; }
  /// Times in (after, until] at which this stream has an RDD.
  std::vector<Time> times(Time zero, Time after, Time until) const;
  /// Whether one of these times has no RDD, in the batch of time `now`, since no batch was run then.
  bool left_out(Time time, Time now) const { return past_is_made && time < now && !made_.contains(time); }
  /// An RDD of nothing in place of one that was left out, partitioned by key.
  NodePtr empty(std::size_t partitions) const;
  void forget_before(Time time);

 private:
  std::map<Time, NodePtr> made_;
};

/// What a sink is told when the stream starts; see api/sink.h.
struct OutputStart {
  std::string app;
  std::string identity;
  std::uint64_t epoch = 0;
  std::string said;
};

/// A batch that an output is given.
struct OutputBatch {
  Time time{};
  /// See SinkBatch.
  Time settled{};
};

struct StreamOutput {
  std::shared_ptr<OperatorInfo> info;
  StreamNodePtr stream;
  /// Does what the output does with the RDD of a batch. What it returns is kept in the journal, for `start`.
  std::function<std::string(const NodePtr&, const OutputBatch&)> function;
  /// Prints what the function would have been given; for replay.
  std::function<void(const NodePtr&, Time)> show;
  /// Called at start(), and when the stream has ended gracefully; may be empty.
  std::function<void(const OutputStart&)> start;
  std::function<void()> close;
  /// "at least once", "idempotent", "transactional".
  std::string contract = "at least once";
  /// Made by the engine to keep state up to date; not told to listeners.
  bool internal = false;
  /// Its identity in the journal.
  std::string identity;
};

/// What becomes of intervals that passed while no driver ran.
enum class MissedBatches {
  /// What has come in since goes into one batch, the first new one. Windows still see their time pass.
  merge,
  /// Each has a batch of its own, at most two an interval until the stream has caught up.
  run,
};

/// What becomes of a stream one of whose outputs has failed for good.
enum class FailedOutput {
  /// The stream stops; the batch is run again after a restart.
  stop,
  /// The stream goes on; what the output lacks is kept and delivered later.
  go_on,
};

struct DriverOptions {
  Duration interval{};
  std::string checkpoint;
  Duration block_interval{};
  std::size_t receiver_memory_bytes = std::size_t{256} << 20;
  /// Stop when every input has ended and everything is processed.
  bool stop_at_end_of_input = false;

  std::string app;
  Duration checkpoint_interval = std::chrono::seconds(10);
  /// Blocks of receivers are logged, where there is a checkpoint directory.
  bool wal = true;
  std::uint64_t keep_batches = 0;
  MissedBatches missed = MissedBatches::merge;
  /// How often a failing output is tried, and the pause before the second try, which doubles from then on.
  unsigned output_tries = 3;
  Duration output_retry_pause = std::chrono::milliseconds(100);
  FailedOutput failed_output = FailedOutput::stop;
  /// Limits of what is owed.
  std::uint64_t owed_bytes_max = std::uint64_t{1} << 30;
  Duration owed_age_max = std::chrono::hours(24);
  /// State of the checkpoint to be left behind.
  std::vector<std::string> drop_state;
  bool accept_new_code = false;
  /// start() reports what binds to what, and changes nothing.
  bool dry_run = false;
  /// start() runs this batch again from what is recorded, prints its outputs, and changes nothing.
  std::optional<Time> replay;
  /// For tests: operators without a name get one by their position.
  bool name_by_position = false;
};

enum class StreamState { initialized, active, stopped };

class Driver {
 public:
  Driver(std::shared_ptr<Engine> engine, DriverOptions options);
  ~Driver();

  // -- building the graph; SLU-104 after start()
  StreamNodePtr add_input(std::shared_ptr<OperatorInfo> info, std::unique_ptr<Input> input);
  StreamNodePtr add_stream(std::shared_ptr<OperatorInfo> info, std::vector<StreamNodePtr> parents, Duration slide);
  void add_output(StreamOutput output);
  void check_not_started(const OperatorInfo& info);

  // -- life cycle
  void start();
  /// Waits for the end; rethrows what ended the stream. False when `deadline` came first.
  bool await_termination(std::optional<Time> deadline);
  void stop(bool graceful, std::optional<Duration> timeout);
  void request_stop(bool graceful);
  StreamState state();
  void add_listener(std::shared_ptr<StreamingListener> listener);
  void remove_listener(const StreamingListener* listener);

  Engine& engine() { return *engine_; }
  const std::shared_ptr<Engine>& shared_engine() const { return engine_; }
  const DriverOptions& options() const { return options_; }
  const std::shared_ptr<ReceiverBudget>& budget() const { return budget_; }
  /// The time before the first batch, of this run or of the first one with this checkpoint directory.
  Time zero() const { return zero_; }
  /// The last complete batch of earlier runs; zero() when there is none.
  Time resumed_after() const { return resumed_after_; }
  /// Of this run, without those that ran again for their state alone.
  std::size_t batches_completed();
  /// Waits until `count` batches are complete or the stream has ended; the number complete. For tests.
  std::size_t await_batches(std::size_t count);

 private:
  struct InputSlot {
    std::unique_ptr<Input> input;
    StreamNodePtr stream;
    std::string identity;
  };
  /// A batch that is to be run.
  struct Batch {
    Time time{};
    /// Of an earlier run; nullptr: inputs are asked.
    const RecordedBatch* recorded = nullptr;
    /// For the state alone.
    bool state_only = false;
    /// And only for what was missing where executors had kept the rest: past RDDs of windows, and `missing_`.
    bool missing_only = false;
    /// Inputs are not asked and give nothing.
    bool empty = false;
  };
  /// What of a checkpoint is not written yet.
  struct Saving {
    struct Partition {
      std::uint32_t operator_index;
      std::shared_ptr<StatePartition> state;
    };
    struct Kept {
      std::uint32_t operator_index;
      Time time;
      NodePtr node;
    };
    std::deque<Partition> partitions;
    std::deque<Kept> kept;
  };

  void check_graph();
  void set_keep_times();
  void set_identities();
  void add_internal_outputs();
  CheckpointDirectoryOptions directory_options(bool read_only) const;
  void open_directory();
  void bind_inputs();
  bool take_up_state();
  std::string application() const;
  void load_state(CheckpointDirectory& from, const std::optional<std::set<std::size_t>>& missing = {});
  void try_to_load_state(CheckpointDirectory& from, const std::optional<std::set<std::size_t>>& missing);
  const CheckpointOperator* taken_up(const Manifest& manifest, const StreamNode& stream) const;
  void open_large_states(const Manifest* manifest);
  void find_states_elsewhere();
  void close_large_states();
  std::map<std::string, StreamNodePtr> kept_streams() const;
  std::set<const StreamNode*> streams_of_state() const;
  bool can_make_kept_again() const;
  bool can_make_state_in_part() const;
  void regroup_kept();
  void load_kept(const std::map<std::string, StreamNodePtr>& kept, const Manifest& manifest,
                 const CheckpointOperator& from, StateBlock&& block);
  void check_bindings(const Manifest& manifest, const JournalContent& journal) const;
  std::string report_bindings() const;
  void start_inputs(std::size_t& started);
  void start_input(InputSlot& slot, InputStart start);
  void start_outputs();
  void close_outputs();

  void run();
  void run_stream();
  Time recover();
  Time run_again(const CheckpointDirectory& recorded);
  bool is_lost_state(const std::exception_ptr& error) const;
  Time restore();
  Time run_missed(Time last);
  Time time_after(Time last) const;
  void run_replay();
  void run_batches(Time last);
  void run_batch(const Batch& batch);
  void choose_inputs(const Batch& batch, BatchInfo& told);
  /// What is done in batch `time` waits for its input to be durable before it can be seen.
  JobOptions job_options(Time time);
  /// Something is written to the checkpoint directory.
  bool records() const { return directory_ != nullptr && !options_.replay.has_value(); }
  std::vector<OutputInfo> run_outputs(const Batch& batch, std::exception_ptr& error);
  void try_again(const std::function<void()>& function, Time time, std::exception_ptr& error);
  OutputBatch batch_of(const StreamOutput& output, Time time) const;
  bool owe(const StreamOutput& output, const NodePtr& node, Time time);
  void deliver_owed();
  bool wait_for_batch(Time time);
  void checkpoint_if_due(Time time, bool at_once);
  void checkpoint_now(Time time);
  void begin_checkpoint(Time time);
  void freeze_state(Time time);
  void abandon_checkpoint();
  bool save_some();
  void save_all();
  bool inputs_ended();
  void tell_receiver_events();
  template <class Tell>
  void tell(const Tell& tell);
  void end(const std::exception_ptr& error);

  const std::shared_ptr<Engine> engine_;
  const DriverOptions options_;
  std::shared_ptr<ReceiverBudget> budget_;
  std::vector<InputSlot> inputs_;
  std::vector<StreamNodePtr> streams_;
  std::vector<StreamOutput> outputs_;
  Time zero_{};
  Time resumed_after_{};
  Time not_before_{};  // pace of batches that were missed
  std::unique_ptr<CheckpointDirectory> directory_;
  std::unique_ptr<Saving> saving_;
  Time last_batch_{};
  Time last_checkpoint_{};
  bool whole_base_ = false;
  /// Nobody knows what of the state has changed since the last checkpoint.
  bool all_changed_ = false;
  /// Executors had the state of the driver before as of that batch.
  Time state_as_of_{};
  /// But for these partitions, of which the state is that of the checkpoint.
  std::set<std::size_t> missing_;
  /// How often state has been restored since the last batch was complete.
  unsigned restores_ = 0;
  std::vector<OwedOutput> owed_;
  Time owed_not_before_{};
  /// How far before a checkpoint inputs are read again.
  Duration held_for_{};
  long receivers_ = 0;
  std::atomic<bool> cancelled_{false};

  std::mutex mutex_;  // guards what follows
  std::unique_ptr<Condition> changed_;
  StreamState state_ = StreamState::initialized;
  bool ended_ = false;
  bool stop_requested_ = false;
  bool graceful_ = false;
  std::exception_ptr error_;
  std::size_t batches_completed_ = 0;
  std::vector<std::shared_ptr<StreamingListener>> listeners_;
  std::unique_ptr<Thread> thread_;
  bool joined_ = false;
};

}  // namespace sluice::detail
