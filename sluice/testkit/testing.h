// Tests of streaming programs: batches in and out as tables; no ports, no sleeps, a clock that the test turns.
//
//     using namespace std::chrono_literals;
//     sluice::testing::StreamTest t{{.batch = 1s, .partitions = 2}};
//     auto in = t.stream<int>({{1, 2}, {3}, {}});                             // one inner list a batch
//     auto out = t.run(in.map([](int x) { return x * x; }), 3);               // three batches
//     EXPECT_EQ(out[0].records, (std::vector{1, 4}));
//
// The engine is the real one. By default its threads are real, its clock stands still until `run` turns it, every task
// is encoded and decoded as on a cluster, and memory that is given back is poisoned, so that a function that keeps a
// view of a record, or captures what cannot travel, fails here and not in production. With a Simulation as `runtime`
// (then make and use the StreamTest inside `Simulation::run`) everything runs in one thread, in an order drawn from its
// seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sluice/api/streaming_context.h"
#include "sluice/testkit/hand_runtime.h"

namespace sluice::testing {

/// Settings of a StreamTest.
struct StreamTestOptions {
  /// Batch interval, at least 1 ms.
  Duration batch = std::chrono::seconds(1);
  /// Partitions of the streams made by `stream`, and of shuffles where a call does not say.
  std::size_t partitions = 2;
  /// Threads that run tasks, and receivers.
  std::size_t cores = 2;
  /// Executors that tasks run on, with so many `cores` each: a cluster in threads of this process. 0: no cluster.
  std::size_t executors = 0;
  /// See ContextOptions.
  std::size_t state_copies = 0;
  bool speculation = false;
  /// The outside world; nullptr: a HandRuntime of its own. Must outlive the StreamTest.
  Runtime* runtime = nullptr;
  /// Encodes and decodes every task before it runs, as a cluster does.
  bool encode_tasks = true;
  /// Sends what rests or shuffles through its codec and poisons memory given back: finds views that outlive a batch.
  bool check_views = true;
  /// Operators with state need one. Empty: a name in the temporary directory, removed at the end.
  std::string checkpoint{};
  /// No checkpoint directory at all.
  bool without_checkpoint = false;
  /// See ContextOptions.
  std::size_t memory_bytes = 0;
  /// See ContextOptions.
  std::string spill_directory{};
  /// See ContextOptions.
  std::string shuffle_compression{};
  /// Seed of the key hash: partition of keys and order of results depend on it.
  std::uint64_t hash_seed = 0;
  /// How often a failing task is tried.
  unsigned task_tries = 4;
  /// See StreamingOptions.
  Duration block_interval = std::chrono::milliseconds(200);
  /// See StreamingOptions.
  std::size_t receiver_memory_bytes = std::size_t{256} << 20;
  /// See StreamingOptions.
  bool stop_at_end_of_input = false;
  /// See StreamingOptions.
  Duration checkpoint_interval{};
  /// See StreamingOptions.
  bool without_wal = false;
  /// See StreamingOptions; outputs are tried once unless a test asks for more.
  unsigned output_tries = 1;
  /// See StreamingOptions.
  FailedOutput failed_output = FailedOutput::stop;
  /// See StreamingOptions.
  MissedBatches missed = MissedBatches::merge;
  /// Operators need names, as in a program. By default they are known by their position in the test.
  bool names_needed = false;
  /// See RestartedTest.
  std::shared_ptr<class Recordings> recordings{};
  /// Batches after which `run` throws LifeEnded. 0: never.
  std::size_t batches_of_life = 0;
};

/// What the outputs of a test had, kept over restarts of its stream; see RestartedTest.
class Recordings {
 public:
  /// Of the output with that number.
  template <class T>
  std::shared_ptr<T> of(std::size_t output) {
    if (output >= kept_.size()) kept_.resize(output + 1);
    if (kept_[output] == nullptr) kept_[output] = std::make_shared<T>();
    return std::static_pointer_cast<T>(kept_[output]);
  }

 private:
  std::vector<std::shared_ptr<void>> kept_;
};

/// Thrown by `run` to end a life of a RestartedTest.
struct LifeEnded : std::exception {};

/// What a stream had in one batch.
template <class T>
struct Batch {
  /// Batch time: the end of its interval.
  Time time{};
  /// In the order of partitions.
  Records<T> records;
};

/// What an observed stream had so far; see StreamTest::output. Cheap to copy.
template <class T>
class Output {
 public:
  /// One per batch at which the stream fires, in order of time. A slide longer than the batch fires fewer.
  /// Threads: to be read when `run` or `stop` has returned, not while batches run.
  const std::vector<Batch<T>>& batches() const { return *batches_; }

 private:
  friend class StreamTest;
  std::shared_ptr<std::vector<Batch<T>>> batches_ = std::make_shared<std::vector<Batch<T>>>();
};

namespace detail {
/// Hands out lists of records, one a batch, then nothing.
template <class T>
class ListInput : public sluice::detail::Input {
 public:
  ListInput(std::vector<std::vector<T>> lists, std::size_t partitions) : partitions_(partitions) {
    for (const std::vector<T>& list : lists) {
      counts_.push_back(list.size());
      // As parallelize cuts them. Copied to rest at once: views may be the caller's.
      for (std::size_t p = 0; p < partitions; ++p) {
        auto rested = std::make_shared<sluice::detail::RestedRecords>(type_ops<T>());
        const std::size_t begin = list.size() * p / partitions;
        rested->append(list.data() + begin, list.size() * (p + 1) / partitions - begin);
        parts_.push_back(std::move(rested));
      }
    }
  }
  std::string choose(sluice::detail::Engine&, Time, InputInfo& told) override {
    const std::size_t number = next_++;
    told.records = number < counts_.size() ? counts_[number] : 0;
    told.blocks = told.records > 0 ? partitions_ : 0;
    Encoder out;
    out.varint(number);
    return out.take();
  }
  sluice::detail::NodePtr rdd(sluice::detail::Engine&, const sluice::detail::OperatorInfoPtr& info,
                              std::string_view choice, InputInfo&) override {
    const std::size_t number = choice.empty() ? counts_.size() : Decoder(choice).varint();
    std::vector<sluice::detail::Shipped<sluice::detail::Source>> sources;
    for (std::size_t p = 0; p < partitions_; ++p) {
      auto records = number < counts_.size() ? parts_[number * partitions_ + p]
                                             : std::make_shared<sluice::detail::RestedRecords>(type_ops<T>());
      sources.push_back(sluice::detail::ship<sluice::detail::Source, sluice::detail::RestedSource>(*info, records));
    }
    return sluice::detail::make_source(info, type_ops<T>(), std::move(sources), partitions_);
  }
  void save(Encoder& out) override { out.varint(next_); }
  void load(Decoder& in) override { next_ = in.varint(); }
  void redo(std::string_view choice) override {
    if (!choice.empty()) next_ = Decoder(choice).varint() + 1;
  }
  bool ended() override { return next_ >= counts_.size(); }

 private:
  const std::size_t partitions_;
  std::vector<std::size_t> counts_;
  std::vector<sluice::detail::RestedPtr> parts_;
  std::size_t next_ = 0;
};
}  // namespace detail

/// A streaming program under test; see the head of this file.
/// Threads: one at a time. Streams and outputs are declared before the first `run`, `start` or `advance`.
class StreamTest {
 public:
  /// Errors: those of Context and StreamingContext.
  explicit StreamTest(StreamTestOptions options = {});
  /// Stops the stream, not gracefully.
  ~StreamTest();
  StreamTest(const StreamTest&) = delete;
  StreamTest& operator=(const StreamTest&) = delete;

  /// Ends an executor (StreamTestOptions::executors) as if its process had been killed; another one takes its place.
  void kill_executor(std::size_t number);
  /// Lets an executor go, as a SIGTERM to its process does: it ends when others have what it has. Another one takes its
  /// place.
  void let_executor_leave(std::size_t number);

  /// A stream of these records: one inner list a batch, cut into the partitions as `parallelize` does; empty batches
  /// when there are no more lists.
  template <class T>
  DStream<T> stream(std::vector<std::vector<T>> batches, Place where = std::source_location::current()) {
    return streaming().add_input<T>("stream", std::make_unique<detail::ListInput<T>>(std::move(batches), partitions_),
                                    where);
  }

  /// Collects what the stream has in each batch.
  template <class T>
  Output<T> output(const DStream<T>& stream, Place where = std::source_location::current()) {
    Output<T> output;
    if (recordings_ != nullptr) output.batches_ = recordings_->of<std::vector<Batch<T>>>(outputs_++);
    stream.foreach_rdd(
        [batches = output.batches_](const Rdd<T>& rdd, Time time) {
          // A batch that was cut off by a restart runs again.
          std::erase_if(*batches, [time](const Batch<T>& batch) { return batch.time == time; });
          batches->push_back({time, rdd.collect()});
        },
        where);
    return output;
  }

  /// Runs `count` more batches: starts the stream if need be, turns the clock from one batch time to the next, and
  /// waits until the batch is complete. Returns early when the stream ends by itself.
  /// Errors: what ended the stream; those of start().
  void run(std::size_t count);
  /// The same with this stream as an output: what it had in these batches.
  template <class T>
  std::vector<Batch<T>> run(const DStream<T>& stream, std::size_t count,
                            Place where = std::source_location::current()) {
    const Output<T> out = output(stream, where);
    run(count);
    return out.batches();
  }

  /// Starts the stream; nothing if it runs.
  void start();
  /// Turns the clock to the next batch time, or by `by`, and waits for nothing: for what depends on time in other ways.
  /// Batches that come due run meanwhile; the next `run` counts them.
  void advance(Duration by = {});
  /// Stops the stream, first processing what receivers have accepted if `graceful`. Rethrows what ended the stream.
  void stop(bool graceful = false);

  /// Batches completed so far.
  std::size_t batches_completed() const { return streaming_->driver()->batches_completed(); }
  const Context& context() const { return *context_; }
  const StreamingContext& streaming() const { return *streaming_; }
  Runtime& runtime() const { return *runtime_; }

 private:
  void turn(Duration by);

  std::unique_ptr<HandRuntime> own_runtime_;
  Runtime* runtime_;
  std::string own_directory_;
  std::size_t partitions_;
  std::unique_ptr<Context> context_;
  std::unique_ptr<StreamingContext> streaming_;
  bool started_ = false;
  std::size_t asked_ = 0;  // batches asked for by `run` so far
  std::shared_ptr<Recordings> recordings_;
  std::size_t outputs_ = 0;
  const std::size_t batches_of_life_;
};

/// Runs a test with its stream restarted from its checkpoint directory after every batch: `body` is called again and
/// again, each time with a StreamTest that goes on where the last one was ended in the middle of `run`; outputs have
/// what they had in all lives. So a test that passes as it is must pass here too, if its inputs can be read again
/// (`stream`, files) and it keeps no counts of its own.
///
///     sluice::testing::run_restarted(options, [](StreamTest& t) { ... });
///
/// Errors: what the body throws.
void run_restarted(StreamTestOptions options, const std::function<void(StreamTest&)>& body);

}  // namespace sluice::testing
