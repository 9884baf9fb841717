// DStream<T>: a stream as a series of RDDs, one at each of its slide times.
//
//     auto hits = lines.map([](std::string_view line) { return std::pair{path_of(line), 1L}; });
//     hits.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 30s, .slide = 1s}).name("hits-30s").print();
//
// Batch time T holds what arrived in (T - interval, T] and is named by its end. Every stream has an RDD, perhaps empty,
// at each of its slide times (Spark has batches without one; see docs/differences.md). Meaning: rows DS, PD, ST of the
// specification. Streams are declared before start(), from one thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/api/operators.h"
#include "sluice/api/rdd.h"
#include "sluice/api/sink.h"
#include "sluice/api/state_backend.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/stream/driver.h"
#include "sluice/stream/update_state.h"
#include "sluice/stream/window_state.h"

namespace sluice {

/// A sliding window: at each multiple of `slide`, the batches of the last `length`.
struct WindowOptions {
  /// A multiple of the stream's slide.
  Duration length{};
  /// A multiple of the stream's slide; 0: that slide itself. A slide longer than the length leaves data out, correctly.
  Duration slide{};
  /// Partitions of the result; 0: the context's default.
  std::size_t partitions = 0;
};

/// See update_state_by_key.
struct UpdateStateOptions {
  /// Declares that f, called with no values, returns the state unchanged. It is then called for the keys of the batch
  /// alone, and an idle key costs nothing.
  bool idle_keeps_state = false;
  /// 0: the context's default.
  std::size_t partitions = 0;
};

template <class K, class S>
class StateDStream;
template <class T>
class WindowDStream;

namespace detail {
void print_batch(Time time, const std::vector<std::string>& lines, bool more);

template <class Optional>
struct InOptional;
template <class S>
struct InOptional<std::optional<S>> {
  using type = S;
};
template <class... Args>
using LastOf = std::remove_cvref_t<std::tuple_element_t<sizeof...(Args) - 1, std::tuple<Args...>>>;
template <class Call>
struct LastParameter;
template <class R, class C, class... Args>
struct LastParameter<R (C::*)(Args...) const> {
  using type = LastOf<Args...>;
};
template <class R, class... Args>
struct LastParameter<R (*)(Args...)> {
  using type = LastOf<Args...>;
};
template <class F>
struct UpdateFunction {
  using Optional = typename LastParameter<decltype(&F::operator())>::type;
};
template <class R, class... Args>
struct UpdateFunction<R (*)(Args...)> {
  using Optional = typename LastParameter<R (*)(Args...)>::type;
};
template <class F, class... Values>
struct UpdateFunction<With<F, Values...>> {
  using Optional = typename UpdateFunction<F>::Optional;
};
/// S of a function (span<const V>, optional<S>) -> optional<S>.
template <class F, class V>
using StateTypeOf = typename InOptional<typename UpdateFunction<F>::Optional>::type;

[[noreturn]] void fail_interval(const OperatorInfo& info, const char* what, Duration value, Duration slide);
std::string batch_directory(const std::string& prefix, const std::string& suffix, Time time);
}  // namespace detail

/// An output of a stream, to be named.
class OutputOperation {
 public:
  /// Its identity in the journal of a checkpoint directory, in errors and events. Needed with a checkpoint directory
  /// where there are several outputs of one kind on streams of one name.
  OutputOperation name(std::string name) const {
    driver_->check_not_started(*info_);
    info_->name = std::move(name);
    info_->named = true;
    return *this;
  }

  /// For the engine.
  OutputOperation(std::shared_ptr<detail::Driver> driver, std::shared_ptr<detail::OperatorInfo> info)
      : driver_(std::move(driver)), info_(std::move(info)) {}

 private:
  std::shared_ptr<detail::Driver> driver_;
  std::shared_ptr<detail::OperatorInfo> info_;
};

/// See the head of this file. Cheap to copy; copies are the same stream.
template <class T>
class DStream : public Operators<DStream, T> {
 public:
  using Record = T;

  /// Names the stream: its identity in errors, events and checkpoints. State is found again by it, so keep it when the
  /// program changes. With a checkpoint directory operators with state, and windows, must have one.
  DStream name(std::string name) const {
    driver_->check_not_started(*node_->info);
    node_->info->name = std::move(name);
    node_->info->named = true;
    return *this;
  }
  /// A name that it had in an earlier version of the program: state kept under it is taken up.
  DStream alias(std::string name) const {
    driver_->check_not_started(*node_->info);
    node_->info->aliases.push_back(std::move(name));
    return *this;
  }
  /// Time between two RDDs.
  Duration slide() const { return node_->slide; }
  /// Keeps each RDD's partitions once computed, as long as the RDD may be asked for.
  DStream cache() const { return persist(StorageLevel::memory_and_disk); }
  DStream persist(StorageLevel level) const {
    driver_->check_not_started(*node_->info);
    node_->persist = static_cast<detail::Keep>(level);
    return *this;
  }

  /// One record a batch: its number of records, 0 for an empty batch (DS-05).
  DStream<std::int64_t> count(Place where = std::source_location::current()) const {
    const auto made = info("count", where);
    return derive<std::int64_t>(made, detail::count_all<T>(made));
  }
  /// The sum of each batch by `f`; no record for an empty batch (DS-04).
  template <class F>
  DStream<T> reduce(F f, Place where = std::source_location::current()) const {
    const auto made = info("reduce", where);
    return derive<T>(made, detail::reduce_all<T>(made, f));
  }

  /// The records of all batches in the last `length`, at each `slide` (DS-10). First windows are partial. This stream
  /// is cached, unless it is an input (DS-11).
  DStream<T> window(WindowOptions options, Place where = std::source_location::current()) const {
    const auto made = info("window", where);
    return window_of(options, made, detail::UnionBody::How::append);
  }
  /// The sum of each window by `f`: batches are reduced once, then their sums (DS-12).
  template <class F>
  DStream<T> reduce_by_window(F f, WindowOptions options, Place where = std::source_location::current()) const {
    return reduce(f, where).cache().window(options, where).reduce(f, where);
  }
  /// The same, incrementally: sum = f(inverse(sum, what leaves), what enters). No record while the window holds no
  /// record. Needs a checkpoint directory.
  template <class F, class Inverse>
  DStream<T> reduce_by_window(F f, Inverse inverse, WindowOptions options,
                              Place where = std::source_location::current()) const {
    options.partitions = 1;
    const auto sums = this->map([](const T& record) { return std::pair<std::int32_t, T>(0, record); }, where)
                          .reduce_by_key_and_window(f, inverse, options, where);
    const auto result = sums.map([](const std::pair<std::int32_t, T>& sum) { return sum.second; }, where);
    result.node_->info = sums.stream_node()->info;  // one operator, one name
    return result;
  }
  /// (key, sum over the window) for each key with a record in the window: batches are reduced by key once, then the
  /// window's reduced batches (PD-06). Cost of a slide: the distinct keys of all its batches.
  template <class F>
    requires PairLike<T>
  DStream<T> reduce_by_key_and_window(F f, WindowOptions options, Place where = std::source_location::current()) const {
    const DStream<T> reduced = this->reduce_by_key(f, options.partitions, where).cache();
    const auto made = info("reduce_by_key_and_window", where);
    const DStream<T> window = reduced.window_of(options, made, detail::UnionBody::How::align);
    using V = typename T::second_type;
    using Combine = detail::ReduceCombine<V, F>;
    // Batches of a checkpoint may lie in another number of partitions.
    auto again = detail::ship<detail::ShuffleKernel, detail::CombineKernel<typename T::first_type, V, V, Combine>>(
        *made, detail::Fn<Combine>{{f}});
    reduced.node_->regroup = [made, again, partitions = partitions_or_default(options.partitions)](
                                 detail::Engine& engine, const detail::NodePtr& node) {
      if (node->by_key && node->partitions == partitions) return node;
      return detail::make_shuffled(engine, made, type_ops<T>(), node, again, partitions, true);
    };
    auto merge = detail::ship<detail::Kernel, detail::CombineInPlaceKernel<typename T::first_type, V, Combine>>(
        *made, detail::Fn<Combine>{{f}});
    return window.template derive<T>(made, [made, merge](detail::Engine&, const detail::NodePtr& parent) {
      return detail::make_narrow(made, type_ops<T>(), parent, merge, true);
    });
  }
  /// The same, incrementally: only what enters and what leaves the window is touched (PD-07). `inverse(sum, leaving)`
  /// takes a value out again. A key is dropped when none of its records is left in the window, whatever its sum.
  /// Needs a checkpoint directory. Values must own their bytes.
  template <class F, class Inverse>
    requires PairLike<T> && (!std::is_same_v<Inverse, WindowOptions>)
  WindowDStream<T> reduce_by_key_and_window(F f, Inverse inverse, WindowOptions options,
                                            Place where = std::source_location::current()) const {
    using K = typename T::first_type;
    using V = typename T::second_type;
    static_assert(!has_views_v<V>,
                  "sluice: the values of a window with an inverse outlive their batch: use std::string, not "
                  "std::string_view");
    const auto made = info("reduce_by_key_and_window", where);
    const std::size_t partitions = partitions_or_default(options.partitions);
    const DStream<T> reduced = this->reduce_by_key(f, partitions, where);
    check_window(options, *made);
    using State = detail::WindowState<K, V>;
    const detail::StateOf<State> state{driver_->engine().next_id(), partitions,
                                       State::schema(options.length, options.slide)};
    const auto maker =
        detail::ship<detail::StateMaker, detail::StateMakerOf<State>>(*made, detail::StateOf<State>{state});
    auto kernel = detail::ship<detail::ZipKernel, detail::WindowStateKernel<K, V, F, Inverse>>(
        *made, detail::StateOf<State>{state}, std::int64_t{options.length.count()}, std::int64_t{node_->slide.count()},
        detail::Fn<F>{f}, detail::Fn<Inverse>{std::move(inverse)});
    auto snapshot = detail::ship<detail::Kernel, detail::SnapshotKernel<K, detail::WindowContent<V>, State>>(
        *made, detail::StateOf<State>{state});
    const auto stream = driver_->add_stream(made, {reduced.node_}, options.slide);
    stream->stateful = stream->in_batch_only = true;
    stream->state =
        detail::StateBinding{state.operation,
                             partitions,
                             state.schema,
                             maker,
                             [partitions](const std::shared_ptr<detail::LargeState>& large, std::size_t partition,
                                          std::uint64_t seed) -> std::shared_ptr<detail::StatePartition> {
                               return detail::make_large_window<K, V>(large, partition, partitions, seed);
                             },
                             [](const detail::StateSchema& written) {
                               return written.kind == "window" && written.key == schema_of<K>() &&
                                      written.value == schema_of<std::pair<V, std::uint32_t>>();
                             }};
    // Batches that entered before the last slide live on as deltas inside the state.
    stream->reach = std::min(options.slide, options.length) - node_->slide;
    stream->compute = [driver = driver_.get(), parent = reduced.node_, made, kernel, maker, snapshot, options,
                       partitions](Time time) {
      detail::Engine& engine = driver->engine();
      std::vector<detail::NodePtr> entering;
      for (const Time t : parent->times(driver->zero(), time - std::min(options.slide, options.length), time)) {
        const detail::NodePtr batch = parent->left_out(t, time) ? parent->empty(partitions) : parent->at(engine, t);
        entering.push_back(detail::by_key<K, V>(engine, made, batch, partitions));
      }
      return detail::make_narrow(made, type_ops<T>(),
                                 detail::make_zip(made, type_ops<T>(), std::move(entering), kernel, true,
                                                  time.time_since_epoch().count(), maker),
                                 snapshot, true);
    };
    return WindowDStream<T>(DStream<T>(driver_, stream, default_partitions_));
  }

  /// Keeps a state per key: at each batch, state = f(values of the batch, state so far), for every known key, also with
  /// no values, unless `idle_keeps_state` is declared (ST-01). `f` is called as f(std::span<const V>, std::optional<S>)
  /// and returns std::optional<S>; nothing drops the key (ST-02). The result has all keys with their state.
  /// Needs a checkpoint directory. S must own its bytes.
  template <class F>
    requires PairLike<T>
  auto update_state_by_key(F f, UpdateStateOptions options = {}, Place where = std::source_location::current()) const;

  /// f(rdd) or f(rdd, time) in the driver, once a batch: any operators on RDDs (DS-08).
  template <class F>
  auto transform(F f, Place where = std::source_location::current()) const {
    const auto made = info("transform", where);
    const auto call = [f](const Rdd<T>& rdd, Time time) {
      if constexpr (std::is_invocable_v<const F&, const Rdd<T>&, Time>) {
        return f(rdd, time);
      } else {
        return f(rdd);
      }
    };
    using U = typename decltype(call(std::declval<const Rdd<T>&>(), Time{}))::Record;
    const auto stream = driver_->add_stream(made, {node_}, node_->slide);
    stream->compute = [driver = driver_.get(), parent = node_, call, made, parts = default_partitions_](Time time) {
      return call(Rdd<T>(driver->shared_engine(), parent->at(driver->engine(), time), parts, made), time).node();
    };
    return DStream<U>(driver_, stream, default_partitions_);
  }
  /// f(rdd, other's rdd[, time]); both streams need the same slide (DS-09).
  template <class W, class F>
  auto transform_with(const DStream<W>& other, F f, Place where = std::source_location::current()) const {
    const auto made = info("transform_with", where);
    check_same_slide(*other.stream_node(), *made);
    const auto call = [f](const Rdd<T>& a, const Rdd<W>& b, Time time) {
      if constexpr (std::is_invocable_v<const F&, const Rdd<T>&, const Rdd<W>&, Time>) {
        return f(a, b, time);
      } else {
        return f(a, b);
      }
    };
    using U = typename decltype(call(std::declval<const Rdd<T>&>(), std::declval<const Rdd<W>&>(), Time{}))::Record;
    const auto stream = driver_->add_stream(made, {node_, other.stream_node()}, node_->slide);
    stream->compute = [driver = driver_.get(), left = node_, right = other.stream_node(), call, made,
                       parts = default_partitions_](Time time) {
      detail::Engine& engine = driver->engine();
      return call(Rdd<T>(driver->shared_engine(), left->at(engine, time), parts, made),
                  Rdd<W>(driver->shared_engine(), right->at(engine, time), parts, made), time)
          .node();
    };
    return DStream<U>(driver_, stream, default_partitions_);
  }

  // ---- Output operations. Functions run in the driver and may capture anything.

  /// f(rdd) or f(rdd, time) once a batch, also for empty ones (DS-20). The functions of a batch's outputs take turns:
  /// never two at a time, started in the order of declaration; one that runs an action waits there while the others
  /// come to theirs, so that shared work is done once. A function that throws fails its batch.
  template <class F>
  OutputOperation foreach_rdd(F f, Place where = std::source_location::current()) const {
    const auto made = info(("foreach_rdd " + node_->info->name).c_str(), where);
    return add_output(
        made,
        [driver = std::weak_ptr(driver_), f = std::move(f), made, parts = default_partitions_](
            const detail::NodePtr& node, Time time) mutable {
          Rdd<T> rdd(driver.lock()->shared_engine(), node, parts, made);
          if constexpr (std::is_invocable_v<F&, Rdd<T>, Time>) {
            f(std::move(rdd), time);
          } else {
            f(std::move(rdd));
          }
        },
        shows_all(made));
  }
  /// Prints the time and the first `n` records of each batch on standard output (DS-21).
  OutputOperation print(std::size_t n = 10, Place where = std::source_location::current()) const {
    const auto made = info(("print " + node_->info->name).c_str(), where);
    const auto print = shows(made, n);
    return add_output(made, print, print);
  }
  /// Writes each batch into a directory `prefix-<milliseconds>[.suffix]`; see Rdd::save_as_text_files (DS-22).
  OutputOperation save_as_text_files(const std::string& prefix, const std::string& suffix = "",
                                     Place where = std::source_location::current()) const {
    const auto made = info(("save_as_text_files " + prefix).c_str(), where);
    return add_output(
        made,
        [driver = std::weak_ptr(driver_), made, prefix, suffix, where, parts = default_partitions_](
            const detail::NodePtr& node, Time time) {
          const Rdd<T> rdd(driver.lock()->shared_engine(), node, parts, made);
          rdd.save_as_text_files(detail::batch_directory(prefix, suffix, time), where);
        },
        shows_all(made));
  }

  /// Gives each batch to a sink, whose contract says what a crash does to it; see sink.h. The ready-made ones have
  /// functions of their own (connect/file_sink.h and others).
  OutputOperation save_to(std::shared_ptr<Sink<T>> sink, Place where = std::source_location::current()) const {
    const auto made = info(("save_to " + sink->argument()).c_str(), where);
    detail::StreamOutput output;
    output.info = made;
    output.stream = node_;
    const auto started = std::make_shared<SinkBatch>();
    output.start = [sink, started, driver = std::weak_ptr(driver_)](const detail::OutputStart& start) {
      *started = {.app = start.app, .output = start.identity, .epoch = start.epoch};
      sink->start({start.app, start.identity, start.epoch, start.said, driver.lock()->engine().runtime()});
    };
    output.close = [sink] { sink->close(); };
    auto kernel = detail::ship<detail::Kernel, detail::SinkKernel<T>>(*made, sink->writers());
    output.function = [driver = std::weak_ptr(driver_), sink, started, made, kernel](const detail::NodePtr& node,
                                                                                     const detail::OutputBatch& given) {
      detail::Engine& engine = driver.lock()->engine();
      const auto partitions =
          detail::Turns::collect(engine, detail::make_narrow(made, type_ops<std::string>(), node, kernel));
      std::vector<std::string> parts;
      for (const detail::RestedPtr& part : partitions) detail::append_records(*part, parts);
      SinkBatch batch = *started;
      batch.batch = given.time;
      batch.settled = given.settled;
      kill_point("sink.before_commit");
      std::string said = sink->commit(batch, parts);
      kill_point("sink.after_commit");
      return said;
    };
    output.show = shows_all(made);
    output.contract = contract_name(sink->contract());
    driver_->add_output(std::move(output));
    return {driver_, made};
  }

  // ---- For the engine's other layers.

  DStream(std::shared_ptr<detail::Driver> driver, detail::StreamNodePtr node, std::size_t default_partitions)
      : driver_(std::move(driver)), node_(std::move(node)), default_partitions_(default_partitions) {
    node_->type = &type_ops<T>();
  }
  const detail::StreamNodePtr& stream_node() const { return node_; }
  const std::shared_ptr<detail::Driver>& driver() const { return driver_; }
  std::shared_ptr<detail::OperatorInfo> info(const char* name, Place where) const {
    return driver_->engine().info(name, where);
  }
  std::size_t partitions_or_default(std::size_t partitions) const {
    return partitions == 0 ? default_partitions_ : partitions;
  }
  template <class U, class Make>
  DStream<U> derive(std::shared_ptr<detail::OperatorInfo> info, Make make) const {
    const auto stream = driver_->add_stream(std::move(info), {node_}, node_->slide);
    stream->compute = [driver = driver_.get(), parent = node_, make](Time time) {
      return make(driver->engine(), parent->at(driver->engine(), time));
    };
    return DStream<U>(driver_, stream, default_partitions_);
  }
  template <class U, class W, class Make>
  DStream<U> derive2(std::shared_ptr<detail::OperatorInfo> info, const DStream<W>& other, Make make) const {
    check_same_slide(*other.stream_node(), *info);
    if (other.driver() != driver_) {
      throw Error(Code::other_context, {.operation = info->name, .where = info->where});
    }
    const auto stream = driver_->add_stream(std::move(info), {node_, other.stream_node()}, node_->slide);
    stream->compute = [driver = driver_.get(), left = node_, right = other.stream_node(), make](Time time) {
      return make(driver->engine(), left->at(driver->engine(), time), right->at(driver->engine(), time));
    };
    return DStream<U>(driver_, stream, default_partitions_);
  }

 private:
  template <class>
  friend class DStream;

  using OutputFunction = std::function<void(const detail::NodePtr&, Time)>;
  OutputOperation add_output(const std::shared_ptr<detail::OperatorInfo>& made, OutputFunction function,
                             OutputFunction show) const {
    detail::StreamOutput output;
    output.info = made;
    output.stream = node_;
    output.function = [function = std::move(function)](const detail::NodePtr& node, const detail::OutputBatch& batch) {
      function(node, batch.time);
      return std::string();
    };
    output.show = std::move(show);
    driver_->add_output(std::move(output));
    return {driver_, made};
  }
  /// Prints up to `n` records.
  OutputFunction shows(const std::shared_ptr<detail::OperatorInfo>& made, std::size_t n) const {
    return [driver = std::weak_ptr(driver_), made, n, parts = default_partitions_](const detail::NodePtr& node,
                                                                                   Time time) {
      const Rdd<T> rdd(driver.lock()->shared_engine(), node, parts, made);
      const Records<T> records = rdd.take(n + 1);
      std::vector<std::string> lines;
      for (std::size_t i = 0; i < std::min(n, records.size()); ++i) lines.push_back(detail::AsLine<T>{}(records[i]));
      detail::print_batch(time, lines, records.size() > n);
    };
  }
  OutputFunction shows_all(const std::shared_ptr<detail::OperatorInfo>& made) const {
    return shows(made, std::numeric_limits<std::size_t>::max() - 1);
  }

  void check_window(WindowOptions& options, const detail::OperatorInfo& made) const {
    const Duration own = node_->slide;
    if (options.slide == Duration{}) options.slide = own;
    if (options.length <= Duration{} || options.length % own != Duration{}) {
      detail::fail_interval(made, "the window's length", options.length, own);
    }
    if (options.slide < Duration{} || options.slide % own != Duration{}) {
      detail::fail_interval(made, "the window's slide", options.slide, own);
    }
  }
  void check_same_slide(const detail::StreamNode& other, const detail::OperatorInfo& made) const {
    if (other.slide != node_->slide) detail::fail_interval(made, "the other stream's slide", other.slide, node_->slide);
  }
  DStream<T> window_of(WindowOptions options, const std::shared_ptr<detail::OperatorInfo>& made,
                       detail::UnionBody::How how) const {
    check_window(options, *made);
    // Batches stay in the window for several slides: what made them is not done again (DS-11). Inputs are at hand.
    if (!node_->parents.empty() && !node_->persist) node_->persist = detail::Keep::memory_and_disk;
    const auto stream = driver_->add_stream(made, {node_}, options.slide);
    stream->reach = options.length - node_->slide;
    stream->compute = [driver = driver_.get(), parent = node_, made, options, how](Time time) {
      std::vector<detail::NodePtr> batches;
      for (const Time t : parent->times(driver->zero(), time - options.length, time)) {
        if (!parent->left_out(t, time)) batches.push_back(parent->at(driver->engine(), t));
      }
      return batches.size() == 1 ? batches[0] : detail::make_union(made, std::move(batches), how);
    };
    return DStream<T>(driver_, stream, default_partitions_);
  }

  std::shared_ptr<detail::Driver> driver_;
  detail::StreamNodePtr node_;
  std::size_t default_partitions_;
};

/// A stream whose operator keeps state; `Self` is what derives from it.
template <class Self, class T>
class StatefulDStream : public DStream<T> {
 public:
  /// See DStream.
  Self name(std::string name) const {
    DStream<T>::name(std::move(name));
    return static_cast<const Self&>(*this);
  }
  /// See DStream.
  Self alias(std::string name) const {
    DStream<T>::alias(std::move(name));
    return static_cast<const Self&>(*this);
  }
  /// Where the state is kept: `sluice::rocksdb` for state that outgrows memory. Said once, before start(); the same
  /// operator may say something else in a later run. See state_backend.h.
  Self state(const StateBackend& backend) const {
    backend.bind(*this->driver(), *keeper_);
    return static_cast<const Self&>(*this);
  }

 protected:
  StatefulDStream(DStream<T> records, detail::StreamNodePtr keeper)
      : DStream<T>(std::move(records)), keeper_(std::move(keeper)) {}

 private:
  detail::StreamNodePtr keeper_;
};

/// The result of reduce_by_key_and_window with an inverse: (key, sum over the window).
template <class T>
class WindowDStream : public StatefulDStream<WindowDStream<T>, T> {
 public:
  explicit WindowDStream(const DStream<T>& sums) : StatefulDStream<WindowDStream<T>, T>(sums, sums.stream_node()) {}
};

/// The result of update_state_by_key: (key, state) of all keys at each batch. Its name is that of `changes()`, too.
template <class K, class S>
class StateDStream : public StatefulDStream<StateDStream<K, S>, std::pair<K, S>> {
 public:
  /// Only the keys for which the function was called in the batch, and which have a state. With `idle_keeps_state`
  /// these are the keys of the batch: the cost follows the input, not the state.
  const DStream<std::pair<K, S>>& changes() const { return changes_; }

  StateDStream(DStream<std::pair<K, S>> all, const DStream<std::pair<K, S>>& changes)
      : StatefulDStream<StateDStream<K, S>, std::pair<K, S>>(std::move(all), changes.stream_node()),
        changes_(changes) {}

 private:
  DStream<std::pair<K, S>> changes_;
};

template <class T>
template <class F>
  requires PairLike<T>
auto DStream<T>::update_state_by_key(F f, UpdateStateOptions options, Place where) const {
  using K = typename T::first_type;
  using V = typename T::second_type;
  // Read off the function's last parameter, which must therefore have a type of its own (no `auto`).
  using S = detail::StateTypeOf<F, V>;
  static_assert(!has_views_v<S>, "sluice: state outlives its batch: use std::string, not std::string_view, in it");
  using Out = std::pair<K, S>;
  const auto made = info("update_state_by_key", where);
  const std::size_t partitions = partitions_or_default(options.partitions);
  using State = detail::UpdateState<K, S>;
  const detail::StateOf<State> state{driver_->engine().next_id(), partitions,
                                     State::schema("update_state_by_key", node_->slide)};
  const auto maker =
      detail::ship<detail::StateMaker, detail::StateMakerOf<State>>(*made, detail::StateOf<State>{state});
  const auto kernel = [&](bool in_order) {
    return detail::ship<detail::ZipKernel, detail::UpdateStateKernel<K, V, S, F>>(
        *made, detail::StateOf<State>{state}, bool{options.idle_keeps_state}, bool{in_order}, detail::Fn<F>{f});
  };
  auto snapshot = detail::ship<detail::Kernel, detail::SnapshotKernel<K, detail::UpdateContent<S>, State>>(
      *made, detail::StateOf<State>{state});
  const auto stream = driver_->add_stream(made, {node_}, node_->slide);
  stream->stateful = stream->in_batch_only = true;
  stream->state =
      detail::StateBinding{state.operation,
                           partitions,
                           state.schema,
                           maker,
                           [partitions](const std::shared_ptr<detail::LargeState>& large, std::size_t partition,
                                        std::uint64_t) -> std::shared_ptr<detail::StatePartition> {
                             return std::make_shared<detail::LargePartition>(large, partition, partitions);
                           },
                           [](const detail::StateSchema& written) {
                             return written.kind == "update_state_by_key" && written.key == schema_of<K>() &&
                                    detail::ValueReader<S>::fits(written.value);
                           }};
  stream->compute = [driver = driver_.get(), parent = node_, made, partitions, shuffled = kernel(true),
                     in_place = kernel(false), maker](Time time) {
    detail::Engine& engine = driver->engine();
    const detail::NodePtr by_key = detail::by_key<K, V>(engine, made, parent->at(engine, time), partitions);
    const bool in_order = std::holds_alternative<detail::ShuffledBody>(by_key->body);
    return detail::make_zip(made, type_ops<Out>(), {by_key}, in_order ? shuffled : in_place, true,
                            time.time_since_epoch().count(), maker);
  };
  const DStream<Out> changes(driver_, stream, default_partitions_);
  // The function is called for all keys: what it gives is all there is, in the same order.
  if (!options.idle_keeps_state) return StateDStream<K, S>(changes, changes);
  const auto all = changes.template derive<Out>(made, [made, snapshot](detail::Engine&, const detail::NodePtr& parent) {
    return detail::make_narrow(made, type_ops<Out>(), parent, snapshot, true);
  });
  all.stream_node()->in_batch_only = true;
  return StateDStream<K, S>(all, changes);
}

}  // namespace sluice
