// Where keyed state lies: in memory, or in RocksDB when it outgrows memory. For update_state_by_key, and for
// reduce_by_key_and_window with an inverse, whose batches lie there, too, until they leave the window.
//
//     auto seen = events.update_state_by_key(f, {.idle_keeps_state = true}).name("seen").state(sluice::rocksdb);
//     auto more = events.update_state_by_key(f, {.idle_keeps_state = true})
//                     .name("more")
//                     .state(sluice::rocksdb({.directory = "/fast/disk", .memory_bytes = std::size_t{1} << 30}));
//
// The same results, batch by batch; only the order of records within a partition is another: that of the keys' bytes.
// What it costs, and how much memory to give it: docs/guide.md, "State larger than memory".
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "sluice/stream/driver.h"
#include "sluice/stream/large_state.h"
#include "sluice/stream/state_backend.h"

namespace sluice {

/// Of sluice::rocksdb, for one operator.
struct RocksdbOptions {
  /// Where the working files lie, in a directory of their own; a crash leaves it behind, the next start removes it. On
  /// the file system of the checkpoint directory, else each checkpoint copies all of the state. Empty: in the
  /// checkpoint directory.
  std::string directory{};
  /// For cached blocks, indexes, filters and what is not written yet, of all partitions together. What a batch changes
  /// comes on top.
  std::size_t memory_bytes = std::size_t{256} << 20;
  /// Reads all of the state at start and checks it, so that an older checkpoint is used when it is damaged. Otherwise
  /// damage in the middle of a large file is found (SLU-301) when the keys there are asked for.
  bool verify = false;
};

/// A place for state; see StateDStream::state.
class StateBackend {
 public:
  /// For the engine: `open` null is memory, which `read` can fill from a database.
  StateBackend(detail::OpenDatabase open, RocksdbOptions options, detail::OpenDatabase read)
      : open_(open), options_(std::move(options)), read_(read) {}
  /// For the engine. Errors: those of Driver::check_not_started.
  void bind(detail::Driver& driver, detail::StreamNode& node) const {
    driver.check_not_started(*node.info);
    detail::StateBinding& binding = *node.state;
    binding.read_large = read_;
    binding.large =
        open_ == nullptr
            ? nullptr
            : std::make_shared<detail::LargeState>(
                  open_, detail::LargeStateOptions{options_.directory, options_.memory_bytes, options_.verify});
  }

 private:
  detail::OpenDatabase open_;
  RocksdbOptions options_;
  detail::OpenDatabase read_;
};

namespace detail {
struct RocksdbBackend {
  operator StateBackend() const { return (*this)({}); }
  StateBackend operator()(RocksdbOptions options) const { return {&open_rocksdb, std::move(options), nullptr}; }
};
struct MemoryBackend {
  operator StateBackend() const { return {nullptr, {}, &open_rocksdb}; }
};
}  // namespace detail

/// State in RocksDB; `rocksdb({...})` with options. State that lay in memory before is taken up.
inline constexpr detail::RocksdbBackend rocksdb{};
/// State in memory, as without `.state(...)`; but state that lay in RocksDB before is taken up.
inline constexpr detail::MemoryBackend in_memory{};

}  // namespace sluice
