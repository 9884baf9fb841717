// The driver of a stream: graph, clock, batches, life cycle.
//
// Invariants:
//  D1. Batch times are zero + k * interval; each is run once, in order, none skipped, however late the driver is.
//  D2. A batch asks every input exactly once, before any of its outputs run.
//  D3. Batches run one after the other on the stream's own thread; all events are told on that thread.
//  D4. An RDD of a stream is made at most once per batch and forgotten when nothing can ask for it again.
//  D5. The graph does not change after start().
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
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
#include "sluice/stream/events.h"
#include "sluice/stream/input.h"

namespace sluice::detail {

class StreamNode;
using StreamNodePtr = std::shared_ptr<StreamNode>;

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
  std::optional<Keep> persist;
  /// Its state must be brought up to date at each slide, whether or not an output asks for it.
  bool stateful = false;
  /// Its records can be made in their own batch only, because the state they are read from moves on. Kept RDDs are
  /// therefore persisted.
  bool in_batch_only = false;

  /// The RDD of `time`, which must be a slide time after the stream's zero time.
  NodePtr at(Engine& engine, Time time);
  void put(Engine& engine, Time time, NodePtr node);
  /// Times in (after, until] at which this stream has an RDD.
  std::vector<Time> times(Time zero, Time after, Time until) const;
  void forget_before(Time time);

 private:
  std::map<Time, NodePtr> made_;
};

struct StreamOutput {
  std::shared_ptr<OperatorInfo> info;
  StreamNodePtr stream;
  std::function<void(const NodePtr&, Time)> function;
  /// Made by the engine to keep state up to date; not told to listeners.
  bool internal = false;
};

struct DriverOptions {
  Duration interval{};
  std::string checkpoint;
  Duration block_interval{};
  std::size_t receiver_memory_bytes = std::size_t{256} << 20;
  /// Stop when every input has ended and everything is processed.
  bool stop_at_end_of_input = false;
};

enum class StreamState { initialized, active, stopped };

class Driver {
 public:
  Driver(std::shared_ptr<Engine> engine, DriverOptions options);
  ~Driver();

  // -- building the graph; SLU-104 after start()
  StreamNodePtr add_input(std::shared_ptr<OperatorInfo> info, std::unique_ptr<Input> input);
  StreamNodePtr add_stream(std::shared_ptr<OperatorInfo> info, std::vector<StreamNodePtr> parents, Duration slide);
  void add_output(std::shared_ptr<OperatorInfo> info, StreamNodePtr stream,
                  std::function<void(const NodePtr&, Time)> function);
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
  /// The time before the first batch.
  Time zero() const { return zero_; }
  std::size_t batches_completed();
  /// Waits until `count` batches are complete or the stream has ended; the number complete. For tests.
  std::size_t await_batches(std::size_t count);

 private:
  struct InputSlot {
    std::unique_ptr<Input> input;
    StreamNodePtr stream;
  };

  void check_graph();
  void set_keep_times();
  void run();
  void run_batches();
  void run_batch(Time time);
  std::vector<OutputInfo> run_outputs(Time time, std::exception_ptr& error);
  bool wait_for_batch(Time time);
  bool inputs_ended();
  void tell_receiver_events();
  template <class Tell>
  void tell(const Tell& tell);
  void end(const std::exception_ptr& error);
  void stop_inputs();

  const std::shared_ptr<Engine> engine_;
  const DriverOptions options_;
  std::shared_ptr<ReceiverBudget> budget_;
  std::vector<InputSlot> inputs_;
  std::vector<StreamNodePtr> streams_;
  std::vector<StreamOutput> outputs_;
  Time zero_{};
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
