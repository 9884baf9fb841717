#include "sluice/testkit/testing.h"

#include <cstdio>

namespace sluice::testing {

StreamTest::StreamTest(StreamTestOptions options)
    : own_runtime_(options.runtime == nullptr ? std::make_unique<HandRuntime>() : nullptr),
      runtime_(options.runtime == nullptr ? own_runtime_.get() : options.runtime),
      partitions_(options.partitions) {
  if (options.without_checkpoint) {
    options.checkpoint.clear();
  } else if (options.checkpoint.empty()) {
    own_directory_ = "/tmp/sluice-test-" + std::to_string(runtime_->random_seed());
    options.checkpoint = own_directory_;
  }
  context_ = std::make_unique<Context>(ContextOptions{.app = "test",
                                                      .master = "local[" + std::to_string(options.cores) + "]",
                                                      .partitions = options.partitions,
                                                      .task_tries = options.task_tries,
                                                      .hash_seed = options.hash_seed,
                                                      .encode_tasks = options.encode_tasks,
                                                      .check_views = options.check_views,
                                                      .runtime = runtime_});
  streaming_ = std::make_unique<StreamingContext>(
      *context_, StreamingOptions{.batch = options.batch,
                                  .checkpoint = options.checkpoint,
                                  .block_interval = options.block_interval,
                                  .receiver_memory_bytes = options.receiver_memory_bytes,
                                  .stop_at_end_of_input = options.stop_at_end_of_input});
}

StreamTest::~StreamTest() {
  try {
    if (streaming_ != nullptr) streaming_->stop();
    streaming_.reset();
    context_.reset();
    if (!own_directory_.empty()) runtime_->files().remove_all(own_directory_);
  } catch (const std::exception& error) {
    // The test has its verdict already; what is left over is told, not hidden.
    std::fprintf(stderr, "sluice: at the end of a StreamTest: %s\n", error.what());
  }
}

void StreamTest::start() {
  if (started_) return;
  streaming_->start();
  started_ = true;
}

void StreamTest::turn(Duration by) {
  if (by <= Duration::zero()) return;
  if (auto* hand = dynamic_cast<HandRuntime*>(runtime_)) {
    hand->advance(by);
  } else {
    runtime_->wait_for(by);
  }
}

void StreamTest::advance(Duration by) {
  start();
  if (by != Duration::zero()) return turn(by);
  const Duration interval = streaming_->batch_interval();
  const Duration since_zero = runtime_->clock().now() - streaming_->driver()->zero();
  turn((since_zero / interval + 1) * interval - since_zero);
}

void StreamTest::run(std::size_t count) {
  start();
  const auto& driver = streaming_->driver();
  for (const std::size_t end = asked_ + count; asked_ < end;) {
    ++asked_;
    turn(driver->zero() + streaming_->batch_interval() * static_cast<long>(asked_) - runtime_->clock().now());
    if (driver->await_batches(asked_) >= asked_) continue;
    driver->await_termination(std::nullopt);
    return;
  }
}

void StreamTest::stop(bool graceful) {
  streaming_->stop({.graceful = graceful});
  if (started_) streaming_->await_termination();
}

}  // namespace sluice::testing
