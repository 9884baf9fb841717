// The batch side: what makes RDDs.
//
//     sluice::Context ctx{{.app = "words"}};                  // --sluice.master=local[2] chooses the threads
//     auto words = ctx.text_file("a.txt.gz").flat_map(sluice::split(' '));
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/api/rdd.h"
#include "sluice/api/settings.h"
#include "sluice/api/shared_values.h"
#include "sluice/core/sources.h"

namespace sluice {

/// Settings of a Context. Those with a name can be given from outside too (settings.h), which wins.
struct ContextOptions {
  /// Name of the application (app).
  std::string app{};
  /// Where tasks run (master): "local" one thread, "local[N]" N threads, "local[*]" one a core of this process;
  /// "local-cluster[E,N]" E processes of this host with N threads each, for which the program must begin with
  /// `sluice::init`; "cluster[E]" waits for E executors that are started with --sluice.executor, on any host
  /// (docs/cluster.md); "ray://HOST:PORT[E,N]" starts E executors with N threads each on the nodes of a Ray cluster
  /// (docs/ray.md), 2 with one thread where [E,N] is left out. Empty: "local[*]".
  std::string master{};
  /// Partitions of shuffles and collections where a call does not say (partitions). It decides the order of results,
  /// so it never follows the number of cores. 0: 4.
  std::size_t partitions = 0;
  /// Bytes of cached partitions kept in memory (memory). On a cluster of each executor: half for cached partitions and
  /// blocks of receivers, half for what shuffles leave. 0: 1 GiB.
  std::size_t memory_bytes = 0;
  /// Below which directory a directory of this context is made for what does not fit memory (spill-directory). Empty:
  /// /tmp.
  std::string spill_directory{};
  /// On a cluster, what becomes of shuffle output that other executors fetch, or that goes to disk
  /// (shuffle-compression): "none", or "lz4", which pays where the network or the disk is slow. Empty: "none".
  std::string shuffle_compression{};
  /// How often a failing task is tried (task-tries). 0: 4.
  unsigned task_tries = 0;
  /// Seed of the key hash (hash-seed). Order of results and partition of keys depend on it.
  std::uint64_t hash_seed = 0;
  /// Encodes and decodes every task before it runs, as a cluster does (encode-tasks).
  bool encode_tasks = false;
  /// Sends what rests or shuffles through its codec and poisons memory given back, so that a view that outlives its
  /// batch is seen (check-views).
  bool check_views = false;
  /// On a cluster, silence after which an executor is given up (executor-timeout, in milliseconds). 0: 1 s.
  Duration executor_timeout{};
  /// On a cluster, executors that keep each partition of state (state-copies): 2, so that the loss of one costs a batch
  /// of delay, or 1: then state is taken from the checkpoint again. 0: 2.
  std::size_t state_copies = 0;
  /// On a cluster, executors that keep each block of a receiver (block-copies), 1 or 2. 0: 2.
  std::size_t block_copies = 0;
  /// "local-cluster[E,N]" and "ray://HOST:PORT[E,N]" begin with E executors and have more or fewer, as their batches
  /// need (dynamic-allocation).
  bool dynamic_allocation = false;
  /// On a cluster, a task that takes half as long again as most others of its stage, and at least `speculation-min`
  /// (100) milliseconds, is given to another executor too, and who is done first counts (speculation). What a function
  /// writes itself (`foreach_partition`) may then be written twice at the same time. Tasks with state are left where it
  /// is.
  bool speculation = false;
  /// Where "cluster[E]" and "ray://..." listen for their executors (listen). Empty: 127.0.0.1:7077, or on Ray any port
  /// of all addresses.
  std::string listen{};
  /// Directory that `sluice certs` has made (certs); "cluster[E]" needs one, "ray://..." makes its own without one.
  std::string certs{};
  /// The outside world; nullptr: the system's. Must outlive the context.
  Runtime* runtime = nullptr;
};

/// A block of memory that a source reads without copying it; see Context::text_blocks.
using MemoryBlock = detail::MemoryBlock;

/// Makes RDDs and runs their jobs. Cheap to copy: copies are the same context. RDDs keep it alive.
/// Threads: RDDs may be made and run from several threads.
class Context {
 public:
  /// Errors: SLU-114 a setting that can't be understood; SLU-212 executors do not come; SLU-413, SLU-402 they cannot be
  /// started on Ray.
  explicit Context(const ContextOptions& options = {});

  /// The records of `values`, cut into `partitions` (0: the default) equal runs.
  template <class T>
  Rdd<T> parallelize(std::vector<T> values, std::size_t partitions = 0,
                     Place where = std::source_location::current()) const {
    if (partitions == 0) partitions = default_partitions();
    const auto info = engine_->info("parallelize", where);
    std::vector<detail::Shipped<detail::Source>> sources;
    for (std::size_t p = 0; p < partitions; ++p) {
      const auto begin = values.begin() + static_cast<std::ptrdiff_t>(values.size() * p / partitions);
      const auto end = values.begin() + static_cast<std::ptrdiff_t>(values.size() * (p + 1) / partitions);
      sources.push_back(detail::ship<detail::Source, detail::CollectionSource<T>>(*info, std::vector<T>(begin, end)));
    }
    // Views in `values` are the caller's: they are copied to rest.
    if constexpr (has_views_v<T>) {
      auto rested = std::make_shared<detail::RestedRecords>(type_ops<T>());
      rested->append(values.data(), values.size());
      return from_rested<T>(info, std::move(rested), partitions);
    } else {
      return Rdd<T>(engine_, detail::make_source(info, type_ops<T>(), std::move(sources), partitions),
                    default_partitions(), info);
    }
  }

  /// No records, in one partition.
  template <class T>
  Rdd<T> empty_rdd(Place where = std::source_location::current()) const {
    const auto info = engine_->info("empty", where);
    return Rdd<T>(
        engine_,
        detail::make_source(info, type_ops<T>(),
                            {detail::ship<detail::Source, detail::CollectionSource<T>>(*info, std::vector<T>())}, 1),
        default_partitions(), info);
  }

  /// The lines of a file, of all files of a directory (no recursion, names that begin with '.' left out, ordered by
  /// name), without their ends "\n" or "\r\n". Names that end in ".gz" or ".zst" are decompressed. Plain files are cut
  /// into partitions of about `split_bytes`. Lines over 1 MiB are skipped and counted (`lines_too_long()`).
  /// Errors: SLU-411 when there is no such file; when it is read: SLU-401, SLU-301, SLU-302.
  Rdd<std::string_view> text_file(const std::string& path, std::size_t split_bytes = 32 << 20,
                                  Place where = std::source_location::current()) const;

  /// The lines of text in the caller's memory, which is not copied: one partition a block. `owner` keeps a block's
  /// bytes alive and unchanged.
  Rdd<std::string_view> text_blocks(std::vector<MemoryBlock> blocks,
                                    Place where = std::source_location::current()) const;

  /// Records that lie in the caller's memory as an array of T, not copied: one partition a block.
  template <class T>
    requires is_plain_v<T> || std::is_trivially_copyable_v<T>
  Rdd<T> record_blocks(std::vector<MemoryBlock> blocks, Place where = std::source_location::current()) const {
    const auto info = engine_->info("record_blocks", where);
    std::vector<detail::Shipped<detail::Source>> sources;
    for (MemoryBlock& block : blocks) {
      if (block.bytes.size() % sizeof(T) != 0 ||
          reinterpret_cast<std::uintptr_t>(block.bytes.data()) % alignof(T) != 0) {
        throw Error(Code::bad_argument,
                    {.why = "a block is no aligned array of whole records", .operation = info->name, .where = where});
      }
      sources.push_back(detail::ship<detail::Source, detail::MemoryRecordsSource<T>>(*info, std::move(block)));
    }
    if (sources.empty()) return empty_rdd<T>(where);
    const std::size_t partitions = sources.size();
    return Rdd<T>(engine_, detail::make_source(info, type_ops<T>(), std::move(sources), partitions),
                  default_partitions(), info);
  }

  /// A value that tasks read; see Broadcast.
  template <class T>
  Broadcast<T> broadcast(T value) const {
    return Broadcast<T>::make(std::move(value));
  }
  /// A sum that tasks add to; see Accumulator.
  Accumulator accumulator() const { return Accumulator(engine_->next_id()); }
  /// What successful tasks have added so far.
  std::int64_t value_of(const Accumulator& accumulator) const { return engine_->accumulated(accumulator.id()); }

  /// Lines that were skipped because they were too long.
  std::int64_t lines_too_long() const { return engine_->accumulated(too_long_counter_); }
  std::size_t default_partitions() const { return partitions_; }
  const std::string& app() const { return app_; }
  /// Every setting with its value and origin.
  const std::vector<Setting>& settings() const { return settings_; }
  Runtime& runtime() const { return engine_->runtime(); }

  /// For the engine's other layers.
  const std::shared_ptr<detail::Engine>& engine() const { return engine_; }
  std::uint64_t too_long_counter() const { return too_long_counter_; }

 private:
  template <class T>
  Rdd<T> from_rested(const std::shared_ptr<detail::OperatorInfo>& info, detail::RestedPtr records,
                     std::size_t partitions) const {
    Rdd<T> all(engine_,
               detail::make_source(info, type_ops<T>(),
                                   {detail::ship<detail::Source, detail::RestedSource>(*info, std::move(records))}, 1),
               default_partitions(), info);
    return partitions == 1 ? all : all.repartition(partitions);
  }

  std::shared_ptr<detail::Engine> engine_;
  std::size_t partitions_ = 0;
  std::string app_;
  std::vector<Setting> settings_;
  std::uint64_t too_long_counter_ = 0;
};

}  // namespace sluice
