// Rdd<T>: a collection of records in partitions, described by how it is made (RD rows; Zaharia et al., NSDI 2012).
//
//     auto top = ctx.text_file("a.txt").flat_map(sluice::split(' '))
//                   .map([](std::string_view w) { return std::pair{w, 1L}; })
//                   .reduce_by_key(std::plus{}).top(10, sluice::by_value);
//
// Nothing is computed before an action asks for it, and nothing is kept unless it is cached. An action runs a job on
// the calling thread and the context's others, and gives the same result whatever their number.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "sluice/api/operators.h"
#include "sluice/core/records.h"
#include "sluice/core/turns.h"

namespace sluice {

/// For `top`: pairs with the larger value first.
struct ByValue {
  template <class P>
  bool operator()(const P& a, const P& b) const {
    return a.second > b.second;
  }
};
inline constexpr ByValue by_value{};

namespace detail {
/// Writes a partition's records as lines of a new file (save_as_text_files).
Shipped<Kernel> text_file_writer(const OperatorInfo& info, const std::string& directory);
void begin_text_files(FileSystem& files, const std::string& directory, const OperatorInfo& info);
void end_text_files(FileSystem& files, const std::string& directory, const OperatorInfo& info);
void append_text(std::string& line, std::string_view text);
void append_text(std::string& line, bool value);
void append_text(std::string& line, char value);
void append_text(std::string& line, double value);
void append_text(std::string& line, std::int64_t value);
void append_text(std::string& line, std::uint64_t value);
/// A record as a line: text as it is, numbers in the shortest form, pairs, tuples and plain structs as "(a,b)", ranges
/// as
/// "[a,b]".
template <class T>
void append_record(std::string& line, const T& record) {
  if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    append_text(line, std::string_view(record));
  } else if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, char>) {
    append_text(line, record);
  } else if constexpr (std::is_floating_point_v<T>) {
    append_text(line, static_cast<double>(record));
  } else if constexpr (std::is_enum_v<T>) {
    append_record(line, static_cast<std::underlying_type_t<T>>(record));
  } else if constexpr (std::is_unsigned_v<T>) {
    append_text(line, static_cast<std::uint64_t>(record));
  } else if constexpr (std::is_integral_v<T>) {
    append_text(line, static_cast<std::int64_t>(record));
  } else if constexpr (requires { std::tuple_size<T>::value; }) {
    line += '(';
    std::apply(
        [&line](const auto& first, const auto&... more) {
          append_record(line, first);
          ((line += ',', append_record(line, more)), ...);
        },
        record);
    line += ')';
  } else if constexpr (requires { record.has_value(); }) {
    if (record.has_value()) {
      append_record(line, *record);
    } else {
      line += "none";
    }
  } else if constexpr (kind_v<T> == Kind::aggregate) {
    line += '(';
    bool first = true;
    for_each_field(record, [&](const auto& field) {
      if (!first) line += ',';
      first = false;
      append_record(line, field);
    });
    line += ')';
  } else if constexpr (kind_v<T> == Kind::duration) {
    append_text(line, static_cast<std::int64_t>(record.count()));
  } else if constexpr (kind_v<T> == Kind::time_point) {
    append_text(line, static_cast<std::int64_t>(record.time_since_epoch().count()));
  } else if constexpr (!requires { record.begin(); } && !std::is_array_v<T>) {
    line += '<' + schema_of<T>() + '>';  // a codec says how it is encoded, not how it is read
  } else {
    line += '[';
    bool first = true;
    for (const auto& element : record) {
      if (!first) line += ',';
      first = false;
      append_record(line, element);
    }
    line += ']';
  }
}
template <class T>
struct AsLine {
  std::string operator()(const T& record) const {
    std::string line;
    append_record(line, record);
    return line;
  }
};
}  // namespace detail

/// Identifies what a function of `foreach_partition` writes. A task that is tried again, and a batch that runs again
/// after a restart, has the same records under the same job, batch and partition; so a write by these three as a key,
/// or as a file's name, is idempotent. `attempt` tells tries apart, for what must not collide while it is not finished;
/// that of a second one at the same time (speculation) is from 2^31 on.
struct PartitionId {
  /// As given to foreach_partition.
  std::string job;
  /// Batch time; the epoch outside a stream.
  Time batch{};
  std::size_t partition = 0;
  std::uint32_t attempt = 0;
};

/// See the head of this file. Cheap to copy; keeps its context alive.
template <class T>
class Rdd : public Operators<Rdd, T> {
 public:
  using Record = T;
  /// A single result: a T, or one record that owns its bytes where T holds views.
  using One = std::conditional_t<has_views_v<T>, Records<T>, T>;

  /// Names the last operator, for errors and the batch page.
  Rdd name(std::string name) const {
    info_->name = std::move(name);
    info_->named = true;
    return *this;
  }
  /// Keeps the partitions once they are computed (RD-07); they go away with the last copy of the returned Rdd.
  Rdd cache() const { return persist(StorageLevel::memory_only); }
  Rdd persist(StorageLevel level) const {
    return Rdd(engine_, detail::make_cached(*engine_, node_, static_cast<detail::Keep>(level)), default_partitions_,
               info_);
  }
  std::size_t partitions() const { return node_->partitions; }

  /// All records, in the order of partitions. They must fit memory.
  Records<T> collect() const { return bring(node_); }
  std::int64_t count() const {
    return collect_one<std::int64_t>(detail::count_all<T>(engine_->info("count", node_->info->where)));
  }
  bool is_empty() const { return take(1).empty(); }
  /// f(f(r1, r2), ...) in a fixed order; `f` should be associative. Errors: SLU-203 when there is no record.
  template <class F>
  One reduce(F f, Place where = std::source_location::current()) const {
    const auto info = engine_->info("reduce", where);
    Records<T> sum = bring(detail::reduce_all<T>(info, f)(*engine_, node_));
    if (sum.empty()) throw Error(Code::empty_rdd, {.operation = info->name, .where = where});
    return one_of(sum);
  }
  /// The first `n` records; every partition stops once it has that many.
  Records<T> take(std::size_t n) const {
    const auto info = engine_->info("take", node_->info->where);
    Records<T> all = bring(
        detail::make_narrow(info, type_ops<T>(), node_,
                            detail::ship<detail::Kernel, detail::FoldKernel<T, T, detail::TakeFold<T>, std::uint64_t>>(
                                *info, std::uint64_t{n})));
    return head(all, n);
  }
  /// Errors: SLU-203 when there is no record.
  One first() const {
    const Records<T> one = take(1);
    if (one.empty()) throw Error(Code::empty_rdd, {.operation = "first", .where = node_->info->where});
    return one_of(one);
  }
  /// The `n` first records by `before(a, b)`, a strict order that is true when `a` comes first (`by_value`: larger
  /// values first). Equal records in the order in which they lie.
  template <class Before>
  Records<T> top(std::size_t n, Before before, Place where = std::source_location::current()) const {
    const auto info = engine_->info("top", where);
    const auto fold = [&] {
      return detail::ship<detail::Kernel,
                          detail::FoldKernel<T, T, detail::TopFold<T, Before>, std::uint64_t, detail::Fn<Before>>>(
          *info, std::uint64_t{n}, detail::Fn<Before>{before});
    };
    Records<T> best = bring(detail::make_narrow(info, type_ops<T>(), node_, fold()));
    return ordered_head(best, n, before);
  }
  /// f(record) for each record, where its task runs. A task that fails is tried again: f may see a record twice.
  template <class F>
  void foreach (F f, Place where = std::source_location::current()) const {
    const auto info = engine_->info("foreach", where);
    auto kernel =
        detail::ship<detail::Kernel, detail::FoldKernel<T, std::int64_t, detail::ForeachFold<T, F>, detail::Fn<F>>>(
            *info, detail::Fn<F>{std::move(f)});
    detail::Turns::collect(*engine_, detail::make_narrow(info, type_ops<std::int64_t>(), node_, std::move(kernel)),
                           detail::Turns::Seen::tasks);
  }
  /// f(partition) for each partition, where its task runs. Batch time, index and attempt of the Partition identify the
  /// output, for sinks that must not write twice.
  template <class F>
    requires std::is_invocable_v<const F&, Partition<T>&>
  void foreach_partition(F f, Place where = std::source_location::current()) const {
    const auto info = engine_->info("foreach_partition", where);
    auto kernel = detail::ship<detail::Kernel, detail::PartitionKernel<T, std::int64_t, detail::PartitionForeach<F>>>(
        *info, detail::Fn{detail::PartitionForeach<F>{std::move(f)}});
    detail::Turns::collect(*engine_, detail::make_narrow(info, type_ops<std::int64_t>(), node_, std::move(kernel)),
                           detail::Turns::Seen::tasks);
  }
  /// f(partition, id): the same, for a sink of your own. `job` is a name that stays when the program changes, and that
  /// no other output has, such as the output's own name.
  template <class F>
    requires std::is_invocable_v<const F&, Partition<T>&, const PartitionId&>
  void foreach_partition(const std::string& job, F f, Place where = std::source_location::current()) const {
    foreach_partition(detail::IdentifiedPartition<PartitionId, F>{{std::tuple(job), {}}, std::move(f)}, where);
  }
  /// Writes one file a partition, "part-00000" and so on, one record a line, into `directory`, each complete or not
  /// there; then an empty "_SUCCESS". Files of an earlier run are replaced, so a batch run again gives the same files;
  /// what a process that was killed has left unfinished is removed.
  void save_as_text_files(const std::string& directory, Place where = std::source_location::current()) const {
    const auto info = engine_->info("save_as_text_files", where);
    FileSystem& files = engine_->runtime().files();
    detail::begin_text_files(files, directory, *info);
    const auto lines = this->map(detail::AsLine<T>{}, where);
    detail::Turns::collect(
        *engine_,
        detail::make_narrow(info, type_ops<std::int64_t>(), lines.node(), detail::text_file_writer(*info, directory)),
        detail::Turns::Seen::tasks);
    detail::end_text_files(files, directory, *info);
  }

  // ---- For the engine's other layers.

  Rdd(std::shared_ptr<detail::Engine> engine, detail::NodePtr node, std::size_t default_partitions,
      std::shared_ptr<detail::OperatorInfo> info)
      : engine_(std::move(engine)),
        node_(std::move(node)),
        default_partitions_(default_partitions),
        info_(std::move(info)) {}
  const detail::NodePtr& node() const { return node_; }
  const std::shared_ptr<detail::Engine>& engine() const { return engine_; }
  std::shared_ptr<detail::OperatorInfo> info(const char* name, Place where) const { return engine_->info(name, where); }
  std::size_t partitions_or_default(std::size_t partitions) const {
    return partitions == 0 ? default_partitions_ : partitions;
  }
  template <class U, class Make>
  Rdd<U> derive(std::shared_ptr<detail::OperatorInfo> info, const Make& make) const {
    return Rdd<U>(engine_, make(*engine_, node_), default_partitions_, std::move(info));
  }
  template <class U, class W, class Make>
  Rdd<U> derive2(std::shared_ptr<detail::OperatorInfo> info, const Rdd<W>& other, const Make& make) const {
    if (other.engine() != engine_) {
      throw Error(Code::other_context, {.operation = info->name, .where = info->where});
    }
    return Rdd<U>(engine_, make(*engine_, node_, other.node()), default_partitions_, std::move(info));
  }

 private:
  template <class U>
  U collect_one(const detail::MakeNode& make) const {
    const auto partitions = detail::Turns::collect(*engine_, make(*engine_, node_));
    RecordsBuilder<U> one;
    append(one, partitions);
    return one.finish().front();
  }
  static One one_of(const Records<T>& one) {
    if constexpr (has_views_v<T>) {
      return one;
    } else {
      return one[0];
    }
  }
  Records<T> bring(const detail::NodePtr& node) const {
    RecordsBuilder<T> builder;
    append(builder, detail::Turns::collect(*engine_, node));
    return builder.finish();
  }
  template <class U>
  static void append(RecordsBuilder<U>& builder, const std::vector<detail::RestedPtr>& partitions) {
    class Append : public detail::Pipe {
     public:
      explicit Append(RecordsBuilder<U>& to) : to_(to) {}
      void push(const void* records, std::size_t count) override {
        for (std::size_t i = 0; i < count; ++i) to_.append_kept(static_cast<const U*>(records)[i]);
      }
      void finish() override {}

     private:
      RecordsBuilder<U>& to_;
    };
    Append pipe(builder);
    for (const detail::RestedPtr& records : partitions) {
      builder.keep(records);
      records->push_all(pipe);
    }
  }
  static Records<T> head(const Records<T>& all, std::size_t n) {
    if (all.size() <= n) return all;
    RecordsBuilder<T> builder;
    for (std::size_t i = 0; i < n; ++i) builder.append(all[i]);
    return builder.finish();
  }
  template <class Before>
  static Records<T> ordered_head(const Records<T>& best, std::size_t n, const Before& before) {
    std::vector<std::size_t> order(best.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return before(best[a], best[b]); });
    RecordsBuilder<T> builder;
    for (std::size_t i = 0; i < std::min(n, order.size()); ++i) builder.append(best[order[i]]);
    return builder.finish();
  }

  std::shared_ptr<detail::Engine> engine_;
  detail::NodePtr node_;
  std::size_t default_partitions_;
  std::shared_ptr<detail::OperatorInfo> info_;
};

}  // namespace sluice
