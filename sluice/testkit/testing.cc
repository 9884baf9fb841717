#include "sluice/testkit/testing.h"

#include <cstdio>

#include "sluice/cluster/scheduler.h"

namespace sluice::testing {
namespace {

// In memory where the system has such a place: tests sync at every batch, and most of them are about something else.
std::string temporary_directory(Runtime& runtime) {
  const bool has_memory = runtime.files().stat("/dev/shm").has_value();
  return (has_memory ? "/dev/shm/sluice-test-" : "/tmp/sluice-test-") + std::to_string(runtime.random_seed());
}

std::string master_of(const StreamTestOptions& options) {
  const std::string cores = std::to_string(options.cores) + "]";
  return options.executors == 0 ? "local[" + cores : "local-cluster[" + std::to_string(options.executors) + "," + cores;
}

// A clock turned by hand jumps, and the machine that runs tests may be busy. In a simulation time is exact.
Duration silence_max(Runtime& runtime) {
  if (&runtime == &system_runtime()) return std::chrono::seconds(20);
  return dynamic_cast<HandRuntime*>(&runtime) != nullptr ? std::chrono::hours(24) : std::chrono::seconds(1);
}

}  // namespace

StreamTest::StreamTest(StreamTestOptions options)
    : own_runtime_(options.runtime == nullptr ? std::make_unique<HandRuntime>() : nullptr),
      runtime_(options.runtime == nullptr ? own_runtime_.get() : options.runtime),
      partitions_(options.partitions),
      recordings_(options.recordings),
      batches_of_life_(options.batches_of_life) {
  if (options.without_checkpoint) {
    options.checkpoint.clear();
  } else if (options.checkpoint.empty()) {
    own_directory_ = temporary_directory(*runtime_);
    options.checkpoint = own_directory_;
  }
  context_ = std::make_unique<Context>(ContextOptions{.app = "test",
                                                      .master = master_of(options),
                                                      .partitions = options.partitions,
                                                      .memory_bytes = options.memory_bytes,
                                                      .spill_directory = options.spill_directory,
                                                      .shuffle_compression = options.shuffle_compression,
                                                      .task_tries = options.task_tries,
                                                      .hash_seed = options.hash_seed,
                                                      .encode_tasks = options.encode_tasks,
                                                      .check_views = options.check_views,
                                                      .executor_timeout = silence_max(*runtime_),
                                                      .state_copies = options.state_copies,
                                                      .speculation = options.speculation,
                                                      .runtime = runtime_});
  streaming_ = std::make_unique<StreamingContext>(
      *context_, StreamingOptions{.batch = options.batch,
                                  .checkpoint = options.checkpoint,
                                  .checkpoint_interval = options.checkpoint_interval,
                                  .block_interval = options.block_interval,
                                  .receiver_memory_bytes = options.receiver_memory_bytes,
                                  .stop_at_end_of_input = options.stop_at_end_of_input,
                                  .without_wal = options.without_wal,
                                  .missed = options.missed,
                                  .output_tries = options.output_tries,
                                  .failed_output = options.failed_output,
                                  .name_by_position = !options.names_needed});
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

void StreamTest::kill_executor(std::size_t number) {
  auto& scheduler = dynamic_cast<sluice::detail::ClusterScheduler&>(context_->engine()->runner());
  dynamic_cast<sluice::detail::ThreadExecutors&>(scheduler.manager()).kill(number);
}

void StreamTest::let_executor_leave(std::size_t number) {
  auto& scheduler = dynamic_cast<sluice::detail::ClusterScheduler&>(context_->engine()->runner());
  dynamic_cast<sluice::detail::ThreadExecutors&>(scheduler.manager()).leave(number);
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
  const Duration interval = streaming_->batch_interval();
  // Batches of earlier lives.
  const auto before = static_cast<std::size_t>((driver->resumed_after() - driver->zero()) / interval);
  for (const std::size_t end = asked_ + count; asked_ < end;) {
    if (++asked_ <= before) continue;
    if (batches_of_life_ > 0 && asked_ > before + batches_of_life_) throw LifeEnded();
    turn(driver->zero() + interval * static_cast<long>(asked_) - runtime_->clock().now());
    if (driver->await_batches(asked_ - before) >= asked_ - before) continue;
    driver->await_termination(std::nullopt);
    return;
  }
}

void run_restarted(StreamTestOptions options, const std::function<void(StreamTest&)>& body) {
  HandRuntime own;
  if (options.runtime == nullptr) options.runtime = &own;
  options.checkpoint = temporary_directory(*options.runtime);
  options.recordings = std::make_shared<Recordings>();
  options.batches_of_life = 1;
  struct Remove {
    const StreamTestOptions& options;
    ~Remove() {
      try {
        options.runtime->files().remove_all(options.checkpoint);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "sluice: at the end of a restarted test: %s\n", error.what());
      }
    }
  } remove{options};
  for (bool ended = false; !ended;) {
    StreamTest life(options);
    try {
      body(life);
      ended = true;
    } catch (const LifeEnded&) {
      continue;
    }
  }
}

void StreamTest::stop(bool graceful) {
  streaming_->stop({.graceful = graceful});
  if (started_) streaming_->await_termination();
}

}  // namespace sluice::testing
