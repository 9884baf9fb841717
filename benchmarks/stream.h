// Programs of sluice as the benchmarks run them.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "sluice/sluice.h"

namespace bench {

/// A directory that goes with it.
class Scratch {
 public:
  Scratch()
      : path_(std::filesystem::temp_directory_path() /
              ("sluice-bench-" + std::to_string(sluice::system_runtime().random_seed()))) {}
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

/// Tells `ended` of each batch.
class Ends : public sluice::StreamingListener {
 public:
  explicit Ends(std::function<void(const sluice::BatchInfo&)> ended) : ended_(std::move(ended)) {}
  void on_batch_completed(const sluice::BatchInfo& batch) override { ended_(batch); }

 private:
  std::function<void(const sluice::BatchInfo&)> ended_;
};

/// A context and a stream.
class Stream {
 public:
  Stream(std::size_t threads, const sluice::StreamingOptions& options)
      : context({.app = "bench", .master = "local[" + std::to_string(threads) + "]", .partitions = threads}),
        ssc(context, options) {}
  /// Calls `ended` after each batch, until it returns false.
  template <class Ended>
  void run(const Ended& ended) {
    ssc.add_listener(std::make_shared<Ends>([&](const sluice::BatchInfo& batch) {
      if (!ended(batch)) ssc.request_stop(false);
    }));
    ssc.start();
    ssc.await_termination();
  }

  sluice::Context context;
  sluice::StreamingContext ssc;
};

inline auto words_of(const sluice::DStream<std::string_view>& lines) {
  return lines.flat_map(sluice::split(' ')).map([](std::string_view word) { return std::pair{word, 1L}; });
}

}  // namespace bench
