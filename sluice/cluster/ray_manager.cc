#include "sluice/cluster/ray_manager.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <string_view>
#include <utility>

#include "sluice/cluster/threads.h"
#include "sluice/runtime/certificates.h"
#include "sluice/runtime/process.h"

namespace sluice::detail {
namespace {

/// It reads what it is told at once.
constexpr Duration write_time_max = std::chrono::seconds(10);
/// For the command to take the executors back; then it is killed, and they end by themselves.
constexpr Duration end_time_max = std::chrono::seconds(10);
/// So long an executor that has lost its driver tries to reach it; then it ends, and its actor with it. The driver has
/// given it up by then.
constexpr std::chrono::seconds executor_grace{20};
/// Between two starts of the command; grows each time, until one has lived for `long_life`.
constexpr Duration pause_min = std::chrono::milliseconds(200);
constexpr Duration pause_max = std::chrono::seconds(10);
constexpr Duration long_life = std::chrono::minutes(1);
/// Statuses of the command (executors.py).
constexpr int no_ray = 1;
/// Lines are for people; a longer one is cut.
constexpr std::size_t line_bytes_max = 4096;

/// The files that make a member, by the names that they have in a directory of `sluice certs`.
using MemberFiles = std::vector<std::pair<std::string, std::string>>;

MemberFiles read_member(FileSystem& files, const std::string& directory) {
  const CertificateFiles paths = CertificateFiles::in(directory);
  return {{"ca.pem", read_file(files, paths.authority)},
          {"node.pem", read_file(files, paths.certificate)},
          {"node.key", read_private_key(files, paths.key)},
          {"token", read_private_key(files, paths.token)}};
}

/// A directory with new certificates while it lives.
class NewCertificates {
 public:
  explicit NewCertificates(Runtime& runtime)
      : runtime_(runtime), path_("/tmp/sluice-ray-" + std::to_string(runtime.random_seed())) {
    // An expired certificate would end a stream that runs for long; they are gone with this driver in any case.
    make_cluster_certificates(runtime, path_, std::chrono::days(3650));
  }
  ~NewCertificates() {
    try {
      runtime_.files().remove_all(path_);
    } catch (const Error& error) {
      std::fprintf(stderr, "sluice: certificates could not be removed: %s\n", error.what());
    }
  }
  NewCertificates(const NewCertificates&) = delete;
  NewCertificates& operator=(const NewCertificates&) = delete;
  const std::string& path() const { return path_; }

 private:
  Runtime& runtime_;
  const std::string path_;
};

/// Bytes as they come in, lines as they go out.
class LineReader {
 public:
  explicit LineReader(Connection& connection) : connection_(connection) {}
  /// nullopt at the end.
  std::optional<std::string> next() {
    for (;;) {
      const std::size_t end = text_.find('\n');
      if (end != std::string::npos || text_.size() >= line_bytes_max) {
        const std::size_t length = std::min(end, line_bytes_max);
        std::string line = text_.substr(0, length);
        text_.erase(0, length == end ? length + 1 : length);
        return line;
      }
      std::array<char, 512> bytes;
      const auto count = connection_.read(bytes, Time::max());
      if (count.value_or(0) == 0) return std::nullopt;
      text_.append(bytes.data(), *count);
    }
  }

 private:
  Connection& connection_;
  std::string text_;
};

class RayExecutors final : public ClusterManager {
 public:
  RayExecutors(Runtime& runtime, RayOptions options)
      : runtime_(runtime),
        options_(std::move(options)),
        name_("driver-" + std::to_string(runtime.random_seed())),
        changed_(runtime.condition()),
        threads_(runtime) {
    // On disk for this moment only: the command gets them by its standard input.
    std::optional<NewCertificates> made;
    if (options_.certs.empty()) made.emplace(runtime_);
    const std::string& directory = made.has_value() ? made->path() : options_.certs;
    network_ = secured_network(runtime_, directory);
    member_ = read_member(runtime_.files(), directory);
  }

  ~RayExecutors() override {
    {
      std::unique_lock lock(mutex_);
      stopping_ = true;
      changed_->notify_all();
      if (child_ != nullptr) child_->connection().close();
      const Time until = runtime_.clock().now() + end_time_max;
      while (child_ != nullptr && runtime_.clock().now() < until) changed_->wait_until(lock, until);
      if (child_ != nullptr) child_->kill(9);
    }
    threads_.join();
  }

  void run_executors(const ExecutorOptions& each, std::size_t count) override {
    std::unique_lock lock(mutex_);
    wanted_ = count;
    if (!is_running_) {
      is_running_ = true;
      threads_.spawn("executors on Ray", [this, each] { run(each); });
    } else if (child_ != nullptr) {
      tell(std::to_string(count) + "\n");
    }
    const Time until = runtime_.clock().now() + options_.answer_time_max;
    while (!are_asked_for_ && failure_ == std::nullopt && runtime_.clock().now() < until) {
      changed_->wait_until(lock, until);
    }
    if (are_asked_for_) return;
    if (failure_ != std::nullopt) throw *failure_;
    throw Error(Code::network_failed, {.why = "Ray at " + options_.address + " has not heard of executors within " +
                                              to_string(options_.answer_time_max) + "; " + last_words_});
  }

  Address driver_address() override { return options_.listen; }
  const ClusterNetwork& network() const override { return network_; }
  std::string waiting_for() override {
    const std::lock_guard lock(mutex_);
    return last_words_;
  }

 private:
  /// Keeps the command running. The first start decides: if that fails there is something to be mended.
  void run(const ExecutorOptions& each) {
    Duration pause = pause_min;
    for (;;) {
      const Time begun = runtime_.clock().now();
      std::optional<Error> failure;
      try {
        failure = run_command(each);
      } catch (const Error& error) {
        failure = error;
      }
      std::unique_lock lock(mutex_);
      if (stopping_) return;
      const Time ended = runtime_.clock().now();
      if (!are_asked_for_) {
        failure_ = failure;
        is_running_ = false;
        changed_->notify_all();
        return;
      }
      pause = ended - begun < long_life ? std::min(2 * pause, pause_max) : pause_min;
      std::fprintf(stderr, "sluice: Ray: %s; trying again\n", failure->details().why.c_str());
      while (!stopping_ && runtime_.clock().now() < ended + pause) changed_->wait_until(lock, ended + pause);
      if (stopping_) return;
    }
  }

  /// Until the command has ended: why, which counts unless it was told to.
  Error run_command(const ExecutorOptions& each) {
    const std::shared_ptr<ChildProcess> child = spawn_program(ray_command, arguments(each));
    if (child == nullptr) {
      return {Code::process_failed,
              {.why = "there is no command sluice-ray on the PATH; " + std::string(ray_command_comes)}};
    }
    {
      const std::lock_guard lock(mutex_);
      child_ = child;
      if (stopping_) child->connection().close();
      std::string files;
      for (const auto& [name, content] : member_) {
        files.append(name).append(" ").append(std::to_string(content.size())).append("\n").append(content);
      }
      tell(files + std::to_string(wanted_) + "\n");
    }
    std::string problem = listen_to(*child);
    const int status = child->wait();
    const std::lock_guard lock(mutex_);
    child_ = nullptr;
    changed_->notify_all();
    if (problem.empty()) problem = "sluice-ray has ended with status " + std::to_string(status);
    return {status == no_ray ? Code::network_failed : Code::process_failed, {.why = problem}};
  }

  /// The problem that it has told of, if any.
  std::string listen_to(ChildProcess& child) {
    std::string problem;
    try {
      LineReader lines(child.connection());
      while (const auto line = lines.next()) {
        const std::size_t colon = std::min(line->find(": "), line->size());
        const std::string_view kind(line->data(), colon);
        const std::string words = line->substr(std::min(colon + 2, line->size()));
        if (kind == "problem") {
          problem = words;
          continue;
        }
        std::fprintf(stderr, "sluice: Ray: %s\n", words.c_str());
        const std::lock_guard lock(mutex_);
        last_words_ = words;
        if (kind == "asked") are_asked_for_ = true;
        changed_->notify_all();
      }
    } catch (const Error& error) {
      // The connection is reset when the command ends before it has read all.
      const std::lock_guard lock(mutex_);
      if (!stopping_ && problem.empty()) problem = error.details().why;
    }
    return problem;
  }

  std::vector<std::string> arguments(const ExecutorOptions& each) const {
    return {"executors",
            "--address=" + options_.address,
            "--name=" + name_,
            "--driver=" + each.driver,
            "--certs=-",
            "--executors=-",
            "--cores=" + std::to_string(each.cores),
            "--memory=" + std::to_string(each.memory_bytes),
            program_path(),
            "--sluice.executor-grace=" + std::to_string(executor_grace.count()),
            "--sluice.spill-directory=" + each.spill_directory,
            std::string("--sluice.shuffle-compression=") + (each.compression == Compression::lz4 ? "lz4" : "none")};
  }

  /// Under the mutex. When it cannot be told it is about to end, and the next one is told all.
  void tell(const std::string& text) {
    try {
      child_->connection().write(text, runtime_.clock().now() + write_time_max);
    } catch (const Error& error) {
      if (!stopping_) std::fprintf(stderr, "sluice: sluice-ray does not listen: %s\n", error.details().why.c_str());
    }
  }

  Runtime& runtime_;
  const RayOptions options_;
  /// By it a new command finds the executors that a killed one has left.
  const std::string name_;
  ClusterNetwork network_;
  MemberFiles member_;

  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  bool stopping_ = false;
  bool is_running_ = false;
  std::size_t wanted_ = 0;
  /// Ray has known of executors at least once.
  bool are_asked_for_ = false;
  std::optional<Error> failure_;
  std::string last_words_;
  std::shared_ptr<ChildProcess> child_;
  Threads threads_;
};

}  // namespace

std::unique_ptr<ClusterManager> make_ray_executors(Runtime& runtime, RayOptions options) {
  return std::make_unique<RayExecutors>(runtime, std::move(options));
}

}  // namespace sluice::detail
