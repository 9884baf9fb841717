// StreamingContext: inputs, life cycle and batches of a stream (SC and LC rows).
//
//     sluice::Context ctx{{.app = "hits"}};
//     sluice::StreamingContext ssc{ctx, {.batch = 1s}};
//     ssc.socket_text_stream("127.0.0.1", 7777).count().print();
//     ssc.start();
//     ssc.await_termination();
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/api/context.h"
#include "sluice/api/dstream.h"
#include "sluice/api/receiver.h"
#include "sluice/stream/driver.h"
#include "sluice/stream/events.h"
#include "sluice/stream/follow_file_input.h"
#include "sluice/stream/text_files_input.h"

namespace sluice {

using detail::FailedOutput;
using detail::MissedBatches;

/// Settings of a stream.
struct StreamingOptions {
  /// Batch interval (batch, in milliseconds), at least 1 ms. 0: 1 s.
  Duration batch{};
  /// Directory for what must survive a crash; stateful operators need one (checkpoint). A stream that is started with a
  /// directory in which an earlier run has left something goes on where that one stopped, whether it was stopped or
  /// killed: see docs/guide.md, "After a crash".
  std::string checkpoint{};
  /// How far apart checkpoints are (checkpoint-interval, in milliseconds): what must be computed again after a crash,
  /// against what is written. 0: 10 s.
  Duration checkpoint_interval{};
  /// Longest time that a receiver's records wait for their block to fill (block-interval, in milliseconds). A batch
  /// time does not wait for it. 0: 200 ms.
  Duration block_interval{};
  /// Bytes that receivers may have stored and no batch has finished with; at the limit they stop reading
  /// (receiver-memory). On a cluster, of each receiver. 0: 256 MiB.
  std::size_t receiver_memory_bytes = 0;
  /// Stop by itself, gracefully, when all inputs have come to their end (standard input, receivers that say so).
  bool stop_at_end_of_input = false;
  /// With a checkpoint directory, blocks of receivers are written to a log before they count as stored. This leaves
  /// that out (wal=false): faster, and what receivers had stored and no batch was done with is lost in a crash.
  bool without_wal = false;
  /// Batches that `--sluice.replay=BATCH` can run again (keep-batches). More take disk. 0: those that recovery needs.
  std::uint64_t keep_batches = 0;
  /// What becomes of intervals that passed while the program did not run (missed=merge or run).
  MissedBatches missed = MissedBatches::merge;
  /// How often an output that fails is tried before its batch fails (output-tries). 0: 3.
  unsigned output_tries = 0;
  /// What becomes of the stream then (failed-output=stop or go-on).
  FailedOutput failed_output = FailedOutput::stop;
  /// For tests: operators that need a name and have none are known by their position in the program.
  bool name_by_position = false;
};

/// How to stop.
struct StopOptions {
  /// First process everything that has been received (GS-01).
  bool graceful = false;
  /// SLU-208 when it takes longer. Empty: no limit.
  std::optional<Duration> timeout{};
};

/// Settings of a program made by get_or_create: the commonest of ContextOptions and StreamingOptions; `context` and
/// `streaming` have the others.
struct ProgramOptions {
  std::string app{};
  std::string master{};
  Duration batch{};
  ContextOptions context{};
  StreamingOptions streaming{};
};

/// RDDs that a test or program feeds to a stream by hand; see StreamingContext::queue_stream. Copies are the same
/// queue.
template <class T>
class RddQueue {
 public:
  void push(Rdd<T> rdd) const {
    const std::lock_guard lock(shared_->mutex);
    shared_->rdds.push_back(std::move(rdd));
  }
  std::size_t size() const {
    const std::lock_guard lock(shared_->mutex);
    return shared_->rdds.size();
  }
  std::optional<Rdd<T>> pop() const {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->rdds.empty()) return std::nullopt;
    std::optional<Rdd<T>> front(std::move(shared_->rdds.front()));
    shared_->rdds.pop_front();
    return front;
  }

 private:
  struct Shared {
    std::mutex mutex;
    std::deque<Rdd<T>> rdds;
  };
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

namespace detail {
/// Takes RDDs out of a queue: one a batch, or all.
template <class T>
class QueueInput : public Input {
 public:
  QueueInput(RddQueue<T> queue, bool one_at_a_time) : queue_(std::move(queue)), one_at_a_time_(one_at_a_time) {}
  bool can_be_read_again() const override { return false; }
  std::string choose(Engine&, Time time, InputInfo& told) override {
    while (one_at_a_time_ ? chosen_.empty() : true) {
      std::optional<Rdd<T>> next = queue_.pop();
      if (!next.has_value()) break;
      chosen_.push_back(next->node());
    }
    told.blocks = chosen_.size();
    if (chosen_.empty()) return {};
    Encoder out;
    out.varint(chosen_.size());
    out.varint(static_cast<std::uint64_t>(time.time_since_epoch().count()));
    return choice_ = out.take();
  }
  NodePtr rdd(Engine&, const OperatorInfoPtr& info, std::string_view choice, InputInfo& told) override {
    std::vector<NodePtr> nodes;
    if (!choice.empty()) {
      if (choice == choice_) nodes = chosen_;
      if (nodes.empty()) told.blocks_lost += Decoder(choice).varint();  // of an earlier run, or complete
    }
    if (nodes.empty()) return make_input_node(info, type_ops<T>(), std::vector<detail::NodePtr>(), 1);
    return nodes.size() == 1 ? nodes[0] : make_union(info, std::move(nodes), UnionBody::How::append);
  }
  void completed(Time) override { chosen_.clear(); }

 private:
  RddQueue<T> queue_;
  bool one_at_a_time_;
  /// The last choice, until its batch is complete.
  std::vector<NodePtr> chosen_;
  std::string choice_;
};
}  // namespace detail

/// A stream in the making, running or stopped. Threads: build the graph from one thread; start, stop, await_termination
/// and listeners may be called from any. Copies are the same stream; when the last of them and of its DStreams goes, a
/// running stream is stopped, not gracefully.
class StreamingContext {
 public:
  /// Errors: SLU-114, SLU-109 (an interval under 1 ms).
  StreamingContext(const Context& context, const StreamingOptions& options);

  /// A stream with a checkpoint directory: `setup(ssc)` declares its graph, always, and start() binds what an earlier
  /// run has left in the directory to the operators of the same names. So a new version of the program takes up the
  /// state of the old one; see docs/guide.md, "Changing a program".
  ///
  ///     auto ssc = sluice::StreamingContext::get_or_create("ckpt", [](sluice::StreamingContext& ssc) { ... },
  ///                                                        {.app = "hits", .batch = 100ms});
  ///
  /// (Spark's getOrCreate calls its function only when there is no checkpoint, and recovers the graph itself.)
  /// Errors: those of Context and StreamingContext, and what `setup` throws.
  static StreamingContext get_or_create(const std::string& directory,
                                        const std::function<void(StreamingContext&)>& setup,
                                        const ProgramOptions& options = {});

  /// The batch side, for RDDs to join or broadcast (SC-07).
  const Context& context() const { return context_; }
  /// As set, or from outside.
  Duration batch_interval() const { return driver_->options().interval; }

  // ---- Inputs

  /// UTF-8 or other lines from a TCP server, ends "\n" or "\r\n" cut off (SC-11). The connection is made again, for
  /// ever, when it fails or ends. Unreliable: what is not in a block yet is lost with the process that receives
  /// (docs/guide.md, "Receivers"). Takes a core. Lines over 1 MiB are dropped and counted.
  DStream<std::string_view> socket_text_stream(const std::string& host, std::uint16_t port,
                                               Place where = std::source_location::current()) const;
  /// Lines of standard input, once; it ends with it. Takes a core.
  DStream<std::string_view> stdin_stream(Place where = std::source_location::current()) const;
  /// Lines of files as they appear in a directory; see text_files_input.h. Takes no core.
  DStream<std::string_view> text_file_stream(const std::string& directory, TextFilesOptions options = {},
                                             Place where = std::source_location::current()) const;
  /// Lines appended to a file, over rotation and truncation, as `tail -F`; see follow_file_input.h. Takes no core.
  DStream<std::string_view> follow_file(const std::string& path, FollowFileOptions options = {},
                                        Place where = std::source_location::current()) const;
  /// RDDs of a queue: the next one at each batch, or all there are; an empty one when there is none (SC-17).
  template <class T>
  DStream<T> queue_stream(RddQueue<T> queue, bool one_at_a_time = true,
                          Place where = std::source_location::current()) const {
    return add_input<T>("queue_stream", std::make_unique<detail::QueueInput<T>>(std::move(queue), one_at_a_time),
                        where);
  }
  /// A receiver of the program's own, made by `factory()` -> std::unique_ptr<Receiver<T>> where it runs: the factory
  /// may capture what task functions may. Takes a core. See receiver.h.
  template <class T, class Factory>
  DStream<T> receiver_stream(Factory factory, ReceiverOptions options = {},
                             Place where = std::source_location::current()) const {
    const auto info = driver_->engine().info("receiver_stream", where);
    auto program = detail::ship<detail::ReceiverProgram, detail::FactoryReceiverProgram<T, Factory>>(
        *info, detail::Fn<Factory>{factory}, Duration(driver_->options().block_interval),
        Duration(driver_->options().interval));
    auto input = std::make_unique<detail::ReceiverInput>(
        std::move(program), driver_->budget(),
        detail::ReceiverInputOptions{.restart_delay = options.restart_delay,
                                     .partitions_max = partitions_max(),
                                     .preferred_host = std::move(options.preferred_location)});
    return DStream<T>(driver_, driver_->add_input(info, std::move(input)), context_.default_partitions());
  }
  /// The records of several streams, in this order (SC-18); all need the same slide.
  template <class T>
  DStream<T> union_of(const std::vector<DStream<T>>& streams, Place where = std::source_location::current()) const {
    if (streams.empty()) throw Error(Code::bad_argument, {.why = "no stream", .operation = "union_of", .where = where});
    DStream<T> all = streams[0];
    for (std::size_t i = 1; i < streams.size(); ++i) all = all.union_with(streams[i], where);
    return all;
  }

  // ---- Life cycle

  /// Checks the graph, starts inputs and the stream's thread. The first batch is due at the next multiple of the batch
  /// interval of the wall clock (BC-01). Calling it twice only warns.
  /// Errors: SLU-101 no output, SLU-102, SLU-103, SLU-105, SLU-108, those of inputs. After a failure the context is as
  /// before and may be mended and started (LC-05).
  void start() const { driver_->start(); }
  /// Waits until the stream stops; rethrows the error that stopped it. Errors: SLU-112 before start().
  void await_termination() const { driver_->await_termination(std::nullopt); }
  /// The same for at most `timeout`; false when the stream still runs.
  bool await_termination(Duration timeout) const {
    return driver_->await_termination(context_.runtime().clock().now() + timeout);
  }
  /// Stops the stream and returns when it has stopped; the Context lives on. In an output function it only asks for the
  /// end after this batch. Errors: SLU-106 in a listener, SLU-208. Stopping twice, or before start(), is no error.
  void stop(StopOptions options = {}) const { driver_->stop(options.graceful, options.timeout); }
  /// Asks for the end and returns at once; may be called anywhere.
  void request_stop(bool graceful = true) const { driver_->request_stop(graceful); }
  detail::StreamState state() const { return driver_->state(); }

  /// From the next event on; see StreamingListener.
  void add_listener(std::shared_ptr<StreamingListener> listener) const { driver_->add_listener(std::move(listener)); }
  /// An event that is being told may still arrive.
  void remove_listener(const StreamingListener* listener) const { driver_->remove_listener(listener); }

  /// For inputs of other layers (connect, testkit).
  template <class T>
  DStream<T> add_input(const char* name, std::unique_ptr<detail::Input> input,
                       Place where = std::source_location::current()) const {
    return DStream<T>(driver_, driver_->add_input(driver_->engine().info(name, where), std::move(input)),
                      context_.default_partitions());
  }
  const std::shared_ptr<detail::Driver>& driver() const { return driver_; }

 private:
  std::size_t partitions_max() const { return 4 * context_.default_partitions(); }

  Context context_;
  std::shared_ptr<detail::Driver> driver_;
};

using StreamState = detail::StreamState;

}  // namespace sluice
