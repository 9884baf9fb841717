#include "sluice/cluster/manager.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "sluice/cluster/log_lines.h"
#include "sluice/core/shared_values.h"
#include "sluice/runtime/memory.h"
#include "sluice/runtime/process.h"

namespace sluice::detail {
namespace {

constexpr std::string_view child_mark = "--sluice-executor";
constexpr Duration start_time_max = std::chrono::seconds(10);
/// Status of an executor that has lost its driver, or was given up by it.
constexpr int given_up = 3;
/// How long an executor that has lost its driver looks whether that has ended.
constexpr Duration parent_end_max = std::chrono::milliseconds(200);
/// An executor that ends sooner than this after its start is started again after a pause, which grows each time.
constexpr Duration short_life = std::chrono::seconds(1);
constexpr Duration pause_min = std::chrono::milliseconds(10);
constexpr Duration pause_max = std::chrono::seconds(5);
/// SIGTERM: as everywhere, a request to end.
constexpr int signal_to_end = 15;
/// Between two attempts to reach a driver.
constexpr Duration reconnect_pause_max = std::chrono::milliseconds(500);
/// Between two looks at the file that says where the driver is.
constexpr Duration address_pause = std::chrono::milliseconds(100);

class LocalProcesses final : public ClusterManager {
 public:
  explicit LocalProcesses(Runtime& runtime)
      : runtime_(runtime),
        network_(plain_network(runtime)),
        stopped_(runtime.condition()),
        directory_("/tmp/sluice-cluster-" + std::to_string(runtime.random_seed())),
        threads_(runtime) {
    runtime_.files().make_directories(directory_);
  }

  ~LocalProcesses() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      stopped_->notify_all();
      // Those that have not ended with the driver's connection by now will not.
      for (const Child& child : children_) {
        if (child.process != nullptr) child.process->kill(9);
      }
    }
    threads_.join();
    remove(directory_);
  }

  void run_executors(const ExecutorOptions& each, std::size_t count) override {
    const std::lock_guard lock(mutex_);
    for (wanted_ = count; running_ < wanted_; ++running_) {
      children_.emplace_back();
      threads_.spawn("executor process", [this, each, number = children_.size() - 1] { run(each, number); });
    }
  }

  void came(ExecutorId id, std::int64_t pid) override {
    const std::lock_guard lock(mutex_);
    for (const Child& child : children_) {
      if (child.process != nullptr && child.process->pid() == pid) *child.id = id;
    }
  }

  Address driver_address() override { return Address{"unix:" + directory_ + "/driver"}; }
  const ClusterNetwork& network() const override { return network_; }

 private:
  struct Child {
    std::shared_ptr<ChildProcess> process;
    /// Of the executor; 0 before it has registered.
    std::shared_ptr<std::atomic<ExecutorId>> id;
  };

  // Before it can do anything, so that it is known when it registers. nullptr when this process ends.
  std::shared_ptr<ChildProcess> start_process(std::size_t number) {
    const auto id = std::make_shared<std::atomic<ExecutorId>>(0);
    const auto print = [id](std::string_view line) {
      const ExecutorId known = id->load();
      print_line(known == 0 ? "executor" : "executor " + std::to_string(known), line);
    };
    const std::lock_guard lock(mutex_);
    if (stopping_) return nullptr;
    children_[number] = {spawn_self({std::string(child_mark)}, print), id};
    return children_[number].process;
  }

  void remove(const std::string& path) {
    try {
      runtime_.files().remove_all(path);
    } catch (const Error& error) {
      std::fprintf(stderr, "sluice: what executors have left could not be removed: %s\n", error.what());
    }
  }

  void run(ExecutorOptions options, std::size_t number) {
    // Of its own, since one that is killed leaves it behind.
    const std::string spill = options.spill_directory + std::string(directory_, directory_.rfind('/'));
    const bool spills = !options.spill_directory.empty();
    Duration pause = pause_min;
    for (std::size_t start = 0;; ++start) {
      options.socket_directory = directory_;
      options.listen = "unix:" + directory_ + "/executor-" + std::to_string(number) + "-" + std::to_string(start);
      if (spills) options.spill_directory = spill + "-" + std::to_string(number) + "-" + std::to_string(start);
      const Time begun = runtime_.clock().now();
      std::shared_ptr<ChildProcess> child;
      try {
        child = start_process(number);
        if (child == nullptr) return;
        Encoder out;
        encode(options, out);
        write_message(child->connection(), out.view(), begun + start_time_max);
      } catch (const Error& error) {
        std::fprintf(stderr, "sluice: an executor could not be started: %s\n", error.what());
      }
      const int status = child == nullptr ? given_up : child->wait();
      if (spills) remove(options.spill_directory);
      std::unique_lock lock(mutex_);
      children_[number] = {};
      if (stopping_) return;
      if (running_ > wanted_) {
        --running_;
        return;
      }
      if (status != 0 && status != given_up) {
        std::fprintf(stderr, "sluice: an executor has ended with status %d\n", status);
      }
      const Time ended = runtime_.clock().now();
      pause = ended - begun < short_life ? std::min(2 * pause, pause_max) : pause_min;
      const Time next = ended + pause;
      while (!stopping_ && runtime_.clock().now() < next) stopped_->wait_until(lock, next);
    }
  }

  Runtime& runtime_;
  const ClusterNetwork network_;
  std::mutex mutex_;
  std::unique_ptr<Condition> stopped_;
  const std::string directory_;
  bool stopping_ = false;
  std::size_t wanted_ = 0;
  std::size_t running_ = 0;
  std::vector<Child> children_;
  Threads threads_;
};

class StartedElsewhere final : public ClusterManager {
 public:
  StartedElsewhere(ClusterNetwork network, Address listen) : network_(std::move(network)), listen_(std::move(listen)) {}
  void run_executors(const ExecutorOptions&, std::size_t) override {}
  Address driver_address() override { return listen_; }
  const ClusterNetwork& network() const override { return network_; }

 private:
  const ClusterNetwork network_;
  const Address listen_;
};

}  // namespace

std::unique_ptr<ClusterManager> make_started_elsewhere(ClusterNetwork network, Address listen) {
  return std::make_unique<StartedElsewhere>(std::move(network), std::move(listen));
}

std::unique_ptr<ClusterManager> make_local_processes(Runtime& runtime) {
  return std::make_unique<LocalProcesses>(runtime);
}

void run_executor_if_child(int argc, char** argv) {
  if (argc < 2 || argv[1] != child_mark) return;
  keep_freed_memory();
  Runtime& runtime = system_runtime();
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // it is a pipe, and a line is for somebody to see
  const auto parent = connection_to_parent();
  const auto message = read_message(*parent, runtime.clock().now() + start_time_max);
  if (!message.has_value()) std::_Exit(1);
  Decoder in(*message);
  const auto options = decode<ExecutorOptions>(in);
  Executor executor(runtime, runtime.transport(), options);
  // It does not outlive its parent: nobody would know of it.
  std::mutex mutex;
  const auto changed = runtime.condition();
  bool parent_has_ended = false;
  const auto watch = runtime.spawn("parent", [&] {
    try {
      char byte = 0;
      parent->read({&byte, 1}, Time::max());
    } catch (const Error& error) {
      std::fprintf(stderr, "sluice: executor: %s\n", error.details().why.c_str());
    }
    executor.close();
    const std::lock_guard lock(mutex);
    parent_has_ended = true;
    changed->notify_all();
  });
  set_shared_value_loader([&executor](std::uint64_t id) { return executor.load_shared_value(id); });
  // An interrupt from the terminal is the driver's to deal with.
  const SignalWatch signals([&executor](int signal) {
    if (signal == signal_to_end) executor.leave();
  });
  int status = 0;
  try {
    if (!executor.run()) status = given_up;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sluice: executor: %s\n", error.what());
    status = 1;
  }
  // The driver's connection and this one end together when the parent has been killed.
  const Time until = runtime.clock().now() + parent_end_max;
  std::unique_lock lock(mutex);
  while (status != 0 && !parent_has_ended && runtime.clock().now() < until) changed->wait_until(lock, until);
  try {
    if (parent_has_ended) runtime.files().remove_all(options.socket_directory);
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: sockets of executors could not be removed: %s\n", error.details().why.c_str());
  }
  std::fflush(stdout);
  std::fflush(stderr);
  std::_Exit(status);  // the rest of main belongs to the driver
}

namespace {

/// What `driver` is, or what the file says that it names. SLU-402 while that says nothing.
std::string driver_address(FileSystem& files, const std::string& driver) {
  if (!driver.starts_with('@')) return driver;
  const std::string path = driver.substr(1);
  std::string text;
  try {
    text = read_file(files, path, 4096);
  } catch (const Error& error) {
    throw Error(Code::network_failed, {.why = error.details().why});
  }
  // A line without an end is being written.
  const std::size_t end = text.find('\n');
  if (end == 0 || end == std::string::npos) {
    throw Error(Code::network_failed, {.why = path + " does not say where the driver is"});
  }
  return text.substr(0, end);
}

}  // namespace

void run_started_executor(const ClusterNetwork& network, ExecutorOptions options, Duration grace) {
  keep_freed_memory();
  Runtime& runtime = system_runtime();
  const std::string driver = options.driver;
  options.token = network.token;
  static LogQueue& logs = *new LogQueue(runtime);  // this process prints until its very end
  copy_output([](OutputStream stream, std::string_view piece) { logs.add(stream, piece); });
  Time until = runtime.clock().now() + grace;
  std::shared_ptr<StateKeeper> states;
  std::string told;  // why it still has no driver
  std::mutex mutex;
  const auto moved = runtime.condition();
  std::shared_ptr<Executor> current;
  std::string address;  // of the driver that it has, or tries to reach
  bool has_moved = false;
  bool is_leaving = false;
  const SignalWatch signals([&](int signal) {
    if (signal != signal_to_end) return;
    const std::lock_guard lock(mutex);
    if (current == nullptr || !current->leave()) std::_Exit(0);  // it waits for a driver
    is_leaving = true;
  });
  const auto set_current = [&](std::shared_ptr<Executor> executor) {
    const std::lock_guard lock(mutex);
    current.swap(executor);
    return is_leaving;
  };
  const auto watch_address = [&] {
    std::unique_lock lock(mutex);
    for (;;) {
      const Time next = runtime.clock().now() + address_pause;
      while (runtime.clock().now() < next) moved->wait_until(lock, next);
      try {
        has_moved = driver_address(runtime.files(), driver) != address;
      } catch (const Error&) {
        continue;  // it has gone nowhere else
      }
      if (!has_moved) continue;
      if (current != nullptr) current->close();
      moved->notify_all();
    }
  };
  const auto watching = driver.starts_with('@') ? runtime.spawn("driver address", watch_address) : nullptr;
  for (Duration pause = pause_min;; pause = std::min(2 * pause, reconnect_pause_max)) {
    std::string why;
    try {
      {
        const std::lock_guard lock(mutex);
        has_moved = false;
        address = options.driver = driver_address(runtime.files(), driver);
      }
      const auto executor = std::make_shared<Executor>(runtime, *network.transport, options, states);
      executor->send_lines_of(logs);
      set_shared_value_loader([&executor](std::uint64_t id) { return executor->load_shared_value(id); });
      set_current(executor);
      const bool is_shut_down = executor->run();
      if (set_current(nullptr) || is_shut_down) std::_Exit(0);
      states = executor->keep_state();
      std::fprintf(stderr, "sluice: executor: the driver is lost; waiting for the next one%s\n",
                   states != nullptr ? " with the state of this one" : "");
      std::fflush(stdout);
      if (states == nullptr) restart_process();
      forget_shared_values();
      until = runtime.clock().now() + grace;
      pause = pause_min;
      told.clear();
      continue;
    } catch (const Error& error) {
      why = error.details().why;
      set_current(nullptr);
      const bool is_final = error.code() != Code::network_failed;
      if (is_final || runtime.clock().now() >= until) {
        std::fprintf(stderr, "sluice: executor: %s\n", error.what());
        std::_Exit(is_final ? 1 : given_up);
      }
    }
    if (why != told) std::fprintf(stderr, "sluice: executor: waiting for a driver: %s\n", why.c_str());
    told = why;
    std::unique_lock lock(mutex);
    const Time next = runtime.clock().now() + pause;
    while (!has_moved && runtime.clock().now() < next) moved->wait_until(lock, next);
    if (has_moved) pause = pause_min;
  }
}

ThreadExecutors::ThreadExecutors(Runtime& runtime)
    : runtime_(runtime), network_(plain_network(runtime)), are_outside_(false), stopped_(runtime.condition()) {}

ThreadExecutors::ThreadExecutors(Runtime& runtime, ClusterNetwork network)
    : runtime_(runtime), network_(std::move(network)), are_outside_(true), stopped_(runtime.condition()) {}

ThreadExecutors::~ThreadExecutors() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    stopped_->notify_all();
    for (const Place& place : places_) {
      if (place.executor != nullptr) place.executor->close();
    }
  }
  for (const Place& place : places_) {
    if (place.thread != nullptr) place.thread->join();
  }
}

void ThreadExecutors::run_executors(const ExecutorOptions& each, std::size_t count) {
  const std::lock_guard lock(mutex_);
  for (wanted_ = count; running_ < wanted_; ++running_) {
    places_.emplace_back();
    places_.back().thread =
        runtime_.spawn("executor", [this, each, number = places_.size() - 1] { run(number, each); });
  }
}

void ThreadExecutors::run(std::size_t number, const ExecutorOptions& options) {
  ExecutorOptions own = options;
  own.listen = Address::tcp("127.0.0.1", 0).text;
  own.host = "host-" + std::to_string(number);
  std::shared_ptr<StateKeeper> states;
  for (;;) {
    auto executor = std::make_shared<Executor>(runtime_, *network_.transport, own, states);
    std::shared_ptr<Executor> before;  // ends without the lock
    {
      std::unique_lock lock(mutex_);
      if (stopping_) return;
      if (running_ > wanted_) {
        --running_;
        return;
      }
      const Time until = places_[number].away_until;
      while (!stopping_ && runtime_.clock().now() < until) stopped_->wait_until(lock, until);
      if (stopping_) return;
      before = std::exchange(places_[number].executor, executor);
    }
    before = nullptr;
    try {
      const bool is_shut_down = executor->run();
      states = is_shut_down ? nullptr : executor->keep_state();
      const std::lock_guard lock(mutex_);
      if (is_shut_down && !std::exchange(places_[number].is_leaving, false) && !are_outside_) return;
      if (std::exchange(places_[number].is_killed, false)) states = nullptr;
    } catch (const Error& error) {
      std::unique_lock lock(mutex_);
      if (stopping_) return;
      if (std::exchange(places_[number].is_killed, false)) states = nullptr;
      std::fprintf(stderr, "sluice: executor: %s\n", error.details().why.c_str());
      stopped_->wait_until(lock, runtime_.clock().now() + pause_min);
    }
  }
}

void ThreadExecutors::leave(std::size_t number) {
  std::shared_ptr<Executor> executor;
  {
    const std::lock_guard lock(mutex_);
    executor = places_.at(number).executor;
    if (executor == nullptr) return;
    places_[number].is_leaving = true;
  }
  executor->leave();
}

void ThreadExecutors::cut_off(std::size_t number, Duration time) {
  const std::lock_guard lock(mutex_);
  places_.at(number).away_until = runtime_.clock().now() + time;
  if (places_[number].executor != nullptr) places_[number].executor->close();
}

void ThreadExecutors::kill(std::size_t number) {
  const std::lock_guard lock(mutex_);
  if (places_.at(number).executor == nullptr) return;
  places_[number].is_killed = true;
  places_[number].executor->close();
}

}  // namespace sluice::detail
