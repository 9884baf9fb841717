#include "sluice/runtime/process.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <ctime>
#include <initializer_list>
#include <mutex>
#include <string_view>
#include <thread>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/output.h"
#include "sluice/runtime/posix.h"

namespace sluice {

std::optional<std::string> environment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return value;
}

std::string program_path() {
  std::array<char, PATH_MAX> path{};
  const ssize_t length = ::readlink("/proc/self/exe", path.data(), path.size());
  if (length < 0) {
    throw Error(Code::process_failed, {.why = "readlink /proc/self/exe: " + detail::errno_text(errno)});
  }
  return {path.data(), static_cast<std::size_t>(length)};
}

int process_id() { return ::getpid(); }

std::string host_name() {
  char name[256] = {};
  // The kernel's names have at most 64 bytes.
  SLUICE_ASSERT(::gethostname(name, sizeof name - 1) == 0);
  return name;
}

std::size_t core_count() {
  // The kernel refuses a mask shorter than its own; 1024 cores are the usual size, some kernels have more.
  for (int cores = 1024; cores <= (1 << 20); cores *= 2) {
    const std::unique_ptr<cpu_set_t, decltype([](cpu_set_t* set) { CPU_FREE(set); })> set(
        CPU_ALLOC(static_cast<std::size_t>(cores)));
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(cores));
    if (::sched_getaffinity(0, bytes, set.get()) == 0) {
      return static_cast<std::size_t>(std::max(1, CPU_COUNT_S(bytes, set.get())));
    }
    if (errno != EINVAL) break;
  }
  return 1;
}

Duration process_cpu_time() {
  timespec used{};
  SLUICE_ASSERT(::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0);
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

namespace {

// The value in bytes of a line "VmRSS:     123 kB" of /proc/self/status; 0 where there is none.
std::uint64_t status_bytes(std::string_view label) {
  const std::string text = read_file(system_runtime().files(), "/proc/self/status");
  const std::size_t at = text.find(std::string(label) + ":");
  if (at == std::string::npos) return 0;
  return std::strtoull(text.c_str() + at + label.size() + 1, nullptr, 10) * 1024;
}

}  // namespace

// Not getrusage: its ru_maxrss survives exec, so a child would begin with the peak of its parent.
std::uint64_t resident_bytes_peak() { return status_bytes("VmHWM"); }

std::uint64_t resident_bytes() { return status_bytes("VmRSS"); }

std::optional<std::pair<int, int>> terminal_size() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0 || size.ws_row == 0) return std::nullopt;
  return std::pair<int, int>(size.ws_col, size.ws_row);
}

namespace {

// Standard input is not made non-blocking: that would hold for every process that shares it, a shell among them. So
// each read is preceded by a poll, together with an eventfd that `close` makes readable.
class StandardInput final : public Connection {
 public:
  explicit StandardInput(const Clock& clock) : clock_(clock), closing_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!closing_.is_open()) fail(errno);
  }

  std::optional<std::size_t> read(std::span<char> into, Time deadline) override {
    SLUICE_ASSERT(!into.empty());
    while (true) {
      if (closed_.load()) throw Error(Code::network_failed, {.why = "standard input was closed on this side"});
      const Time now = clock_.now();
      // Looked at again now and then, for a clock that is turned by hand.
      constexpr Duration longest = std::chrono::seconds(1);
      const Duration left = deadline <= now ? Duration::zero() : deadline - now < longest ? deadline - now : longest;
      const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
      const timespec timeout{.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
      pollfd waits[2] = {{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0},
                         {.fd = closing_.get(), .events = POLLIN, .revents = 0}};
      const int count = ::ppoll(waits, 2, &timeout, nullptr);
      if (count < 0 && errno != EINTR) fail(errno);
      if (count == 0 && deadline <= clock_.now()) return std::nullopt;
      if (count <= 0 || waits[0].revents == 0) continue;
      const ssize_t got = ::read(STDIN_FILENO, into.data(), into.size());
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EINTR && errno != EAGAIN) fail(errno);
    }
  }
  void write(std::string_view, Time) override {
    throw Error(Code::network_failed, {.why = "standard input cannot be written to"});
  }
  void close() override {
    closed_.store(true);
    const std::uint64_t one = 1;
    while (::write(closing_.get(), &one, sizeof one) < 0 && errno == EINTR) continue;
  }
  std::string peer() const override { return "standard input"; }

 private:
  [[noreturn]] static void fail(int error) {
    throw Error(Code::network_failed, {.why = "read from standard input: " + detail::errno_text(error)});
  }

  const Clock& clock_;
  const detail::Descriptor closing_;
  std::atomic<bool> closed_{false};
};

}  // namespace

std::unique_ptr<Connection> standard_input(const Clock& clock) {
  // A closed one must not pass for open because the eventfd gets its number.
  if (::fcntl(STDIN_FILENO, F_GETFD) < 0) {
    throw Error(Code::network_failed, {.why = "standard input is closed: " + detail::errno_text(errno)});
  }
  return std::make_unique<StandardInput>(clock);
}

namespace {

constexpr int parent_descriptor = 3;

[[noreturn]] void throw_process_failed(std::string_view call, int error) {
  throw Error(Code::process_failed, {.why = std::string(call) + ": " + detail::errno_text(error)});
}

// Handlers, the user's own among them, run on the threads that were there before.
void block_signals() {
  sigset_t all;
  ::sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

struct Pipe {
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) throw_process_failed("pipe", errno);
    read_end = detail::Descriptor(ends[0]);
    write_end = detail::Descriptor(ends[1]);
  }
  detail::Descriptor read_end;
  detail::Descriptor write_end;
};

// What a child prints. Processes that it has started may hold the pipes open when it has ended, and go on printing: so
// it is told of the end, and takes what is there by then.
class ChildOutput {
 public:
  ChildOutput(detail::Descriptor out, detail::Descriptor error, std::function<void(std::string_view)> on_line)
      : on_line_(std::move(on_line)), ended_(::eventfd(0, EFD_CLOEXEC)) {
    if (!ended_.is_open()) throw_process_failed("eventfd", errno);
    streams_[0].pipe = std::move(out);
    streams_[1].pipe = std::move(error);
    thread_ = std::thread([this]() noexcept {
      pthread_setname_np(pthread_self(), "sluice-child-out");
      block_signals();
      read();
    });
  }

  ~ChildOutput() { finish(); }
  ChildOutput(const ChildOutput&) = delete;
  ChildOutput& operator=(const ChildOutput&) = delete;

  /// The child has ended. Returns when `on_line` has had all lines. Threads: several may call it.
  void finish() {
    const std::lock_guard lock(mutex_);
    if (!thread_.joinable()) return;
    const std::uint64_t one = 1;
    while (::write(ended_.get(), &one, sizeof one) < 0 && errno == EINTR) continue;
    thread_.join();
  }

 private:
  struct Stream {
    detail::Descriptor pipe;
    bool is_open = true;
    Lines lines;
  };

  void read() {
    for (bool has_ended = false; !has_ended && (streams_[0].is_open || streams_[1].is_open);) {
      pollfd waits[3] = {{.fd = ended_.get(), .events = POLLIN, .revents = 0}};
      for (int i = 0; i < 2; ++i) {
        // A negative one is not looked at.
        waits[i + 1] = {.fd = streams_[i].is_open ? streams_[i].pipe.get() : -1, .events = POLLIN, .revents = 0};
      }
      if (::poll(waits, 3, -1) < 0) {
        SLUICE_ASSERT(errno == EINTR);
        continue;
      }
      has_ended = waits[0].revents != 0;
      for (int i = 0; i < 2 && !has_ended; ++i) {
        if (waits[i + 1].revents != 0) take(streams_[i], sizeof buffer_);
      }
    }
    for (Stream& stream : streams_) {
      int left = 0;
      if (stream.is_open && ::ioctl(stream.pipe.get(), FIONREAD, &left) == 0) {
        for (auto rest = static_cast<std::size_t>(left); rest > 0 && stream.is_open;) rest -= take(stream, rest);
      }
      stream.lines.finish(on_line_);
    }
  }

  std::size_t take(Stream& stream, std::size_t at_most) {
    const ssize_t n = ::read(stream.pipe.get(), buffer_, std::min(at_most, sizeof buffer_));
    if (n < 0 && errno == EINTR) return 0;
    if (n <= 0) {
      stream.is_open = false;
      return 0;
    }
    stream.lines.add({buffer_, static_cast<std::size_t>(n)}, on_line_);
    return static_cast<std::size_t>(n);
  }

  const std::function<void(std::string_view)> on_line_;
  const detail::Descriptor ended_;
  Stream streams_[2];
  char buffer_[16 << 10];
  std::mutex mutex_;
  std::thread thread_;
};

// Threads: `wait` and `kill` from different threads. The process is reaped under the mutex and never before, so `kill`
// cannot hit a stranger who was given the same number.
class PosixChild final : public ChildProcess {
 public:
  PosixChild(pid_t pid, detail::Descriptor socket, std::unique_ptr<ChildOutput> output)
      : pid_(pid),
        connection_(detail::adopt_socket(std::move(socket), "child " + std::to_string(pid), detail::system_clock())),
        output_(std::move(output)) {}

  ~PosixChild() override {
    kill(SIGKILL);
    wait();
  }

  Connection& connection() override { return *connection_; }
  int pid() const override { return pid_; }

  int wait() override {
    // First wait for the end without reaping, which needs no mutex.
    siginfo_t info;
    while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) < 0) {
      // ECHILD: another call has reaped it, or the program ignores SIGCHLD and the kernel did.
      if (errno == ECHILD) break;
      SLUICE_ASSERT(errno == EINTR);
    }
    if (output_ != nullptr) output_->finish();
    const std::lock_guard lock(mutex_);
    if (!status_) {
      int status = 0;
      pid_t reaped = 0;
      do {
        reaped = ::waitpid(pid_, &status, 0);
      } while (reaped < 0 && errno == EINTR);
      // Reaped by someone else: how it ended is not known any more, and must not pass for success.
      constexpr int unknown = 255;
      status_ = reaped < 0 ? unknown : WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    return *status_;
  }

  void kill(int signal) override {
    const std::lock_guard lock(mutex_);
    if (!status_) ::kill(pid_, signal);
  }

 private:
  const pid_t pid_;
  const std::unique_ptr<Connection> connection_;
  const std::unique_ptr<ChildOutput> output_;
  std::mutex mutex_;
  std::optional<int> status_;
};

// The settings of posix_spawn, which must be destroyed.
struct SpawnSettings {
  SpawnSettings() {
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
  }
  ~SpawnSettings() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

/// Starts the program with its end of a new socket pair as each of these descriptors; the error number is that of
/// `spawn`, which is posix_spawn or posix_spawnp. What it prints goes to `on_line`, if there is one.
std::unique_ptr<ChildProcess> spawn(decltype(::posix_spawn)& call, const std::string& program, char* name,
                                    const std::vector<std::string>& arguments, std::initializer_list<int> descriptors,
                                    std::function<void(std::string_view line)> on_line, int& error) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) throw_process_failed("socketpair", errno);
  detail::Descriptor ours(ends[0]);
  const detail::Descriptor theirs(ends[1]);

  SpawnSettings settings;
  // The copy is not closed by exec; where `theirs` is that descriptor already, posix_spawn clears its close-on-exec
  // flag.
  for (const int descriptor : descriptors) {
    ::posix_spawn_file_actions_adddup2(&settings.actions, theirs.get(), descriptor);
  }
  std::optional<Pipe> out;
  std::optional<Pipe> err;
  std::unique_ptr<ChildOutput> output;
  if (on_line) {
    out.emplace();
    err.emplace();
    output = std::make_unique<ChildOutput>(std::move(out->read_end), std::move(err->read_end), std::move(on_line));
    ::posix_spawn_file_actions_adddup2(&settings.actions, out->write_end.get(), STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&settings.actions, err->write_end.get(), STDERR_FILENO);
  }
  // What this thread blocks and this program ignores is no business of the child's.
  sigset_t none;
  sigset_t ours_to_reset;
  ::sigemptyset(&none);
  ::sigemptyset(&ours_to_reset);
  for (int signal : {SIGINT, SIGTERM, SIGPIPE, SIGHUP, SIGCHLD}) ::sigaddset(&ours_to_reset, signal);
  ::posix_spawnattr_setsigmask(&settings.attributes, &none);
  ::posix_spawnattr_setsigdefault(&settings.attributes, &ours_to_reset);
  ::posix_spawnattr_setflags(&settings.attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  std::vector<char*> argv;
  argv.push_back(name);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  pid_t pid = 0;
  error = call(&pid, program.c_str(), &settings.actions, &settings.attributes, argv.data(), environ);
  return error != 0 ? nullptr : std::make_unique<PosixChild>(pid, std::move(ours), std::move(output));
}

}  // namespace

std::unique_ptr<ChildProcess> spawn_self(const std::vector<std::string>& arguments,
                                         std::function<void(std::string_view line)> on_line) {
  int error = 0;
  // The link leads to the running binary itself, even when its file was replaced or removed since.
  auto child = spawn(::posix_spawn, "/proc/self/exe", program_invocation_name, arguments, {parent_descriptor},
                     std::move(on_line), error);
  if (child == nullptr) throw_process_failed("start of a child process", error);
  return child;
}

std::unique_ptr<ChildProcess> spawn_program(const std::string& program, const std::vector<std::string>& arguments) {
  int error = 0;
  std::string name = program;
  auto child = spawn(::posix_spawnp, program, name.data(), arguments, {STDIN_FILENO, STDOUT_FILENO}, {}, error);
  if (child == nullptr && error != ENOENT) throw_process_failed("start of " + program, error);
  return child;
}

void restart_process() {
  const std::string all = read_file(system_runtime().files(), "/proc/self/cmdline");
  std::vector<char*> argv;
  for (std::size_t at = 0; at < all.size(); at = all.find('\0', at) + 1) argv.push_back(const_cast<char*>(&all[at]));
  argv.push_back(nullptr);
  ::execv("/proc/self/exe", argv.data());
  throw_process_failed("start of the process over", errno);
}

void become_program(const std::string& program, const std::vector<std::string>& arguments) {
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execvp(program.c_str(), argv.data());
  throw_process_failed("start of " + program, errno);
}

std::unique_ptr<Connection> connection_to_parent() {
  static std::atomic<bool> taken{false};
  SLUICE_ASSERT(!taken.exchange(true));
  struct stat data;
  if (::fstat(parent_descriptor, &data) < 0) throw_process_failed("descriptor 3, the parent's connection", errno);
  if (!S_ISSOCK(data.st_mode)) throw_process_failed("descriptor 3, the parent's connection", ENOTSOCK);
  // Children of this process must not hold it open: its end tells the parent that this process is gone.
  if (::fcntl(parent_descriptor, F_SETFD, FD_CLOEXEC) < 0) throw_process_failed("fcntl", errno);
  std::signal(SIGPIPE, SIG_IGN);
  return detail::adopt_socket(detail::Descriptor(parent_descriptor), "parent", detail::system_clock());
}

namespace {

// What the signal handler may touch. It can run on any thread at any instant, so nothing here is ever destroyed, and
// the pipe stays open when the watch ends: a late handler must not write to someone else's descriptor.
struct SignalPipe {
  std::atomic<int> write_end{-1};
  std::atomic<int> signal_count{0};
  int read_end = -1;
};
static_assert(std::atomic<int>::is_always_lock_free, "the signal handler may not take a lock");
SignalPipe signal_pipe;

constexpr unsigned char end_of_watch = 0;

void tell_watch(unsigned char what) {
  while (::write(signal_pipe.write_end.load(), &what, 1) < 0 && errno == EINTR) continue;
}

void handle_signal(int signal) {
  const int saved = errno;
  if (signal_pipe.signal_count.fetch_add(1) > 0) ::_exit(128 + signal);
  tell_watch(static_cast<unsigned char>(signal));
  errno = saved;
}

unsigned char next_signal() {
  unsigned char what = end_of_watch;
  while (::read(signal_pipe.read_end, &what, 1) < 0 && errno == EINTR) continue;
  return what;
}

}  // namespace

struct SignalWatch::State {
  std::function<void(int)> on_signal;
  struct sigaction old_int{};
  struct sigaction old_term{};
  std::thread thread;
};

SignalWatch::SignalWatch(std::function<void(int)> on_signal) : state_(std::make_unique<State>()) {
  static std::mutex mutex;
  {
    const std::lock_guard lock(mutex);
    if (signal_pipe.write_end.load() < 0) {
      int ends[2];
      if (::pipe2(ends, O_CLOEXEC) < 0) throw_process_failed("pipe", errno);
      signal_pipe.read_end = ends[0];
      signal_pipe.write_end.store(ends[1]);
    }
  }
  struct sigaction current{};
  ::sigaction(SIGINT, nullptr, &current);
  // Two watches would share one pipe and restore each other's handlers.
  SLUICE_ASSERT(current.sa_handler != handle_signal);

  state_->on_signal = std::move(on_signal);
  signal_pipe.signal_count.store(0);
  state_->thread = std::thread([this]() noexcept {
    pthread_setname_np(pthread_self(), "sluice-signals");
    // (Under ThreadSanitizer a signal that arrives in this thread's read would wait until the next one.)
    block_signals();
    for (unsigned char what = next_signal(); what != end_of_watch; what = next_signal()) state_->on_signal(what);
  });
  struct sigaction action{};
  action.sa_handler = handle_signal;
  action.sa_flags = SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &state_->old_int);
  ::sigaction(SIGTERM, &action, &state_->old_term);
}

SignalWatch::~SignalWatch() {
  ::sigaction(SIGINT, &state_->old_int, nullptr);
  ::sigaction(SIGTERM, &state_->old_term, nullptr);
  tell_watch(end_of_watch);
  state_->thread.join();
}

bool notify_supervisor(std::string_view state) {
  const std::optional<std::string> path = environment("NOTIFY_SOCKET");
  if (!path || path->empty()) return false;
  const auto fail = [&](const char* what) {
    throw Error(Code::network_failed, {.why = std::string(what) + " " + *path + ": " + detail::errno_text(errno)});
  };
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path->size() >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    fail("connect");
  }
  path->copy(address.sun_path, path->size());
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';  // an abstract name
  const auto address_bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path->size());
  const detail::Descriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) fail("socket");
  const ssize_t sent = ::sendto(socket.get(), state.data(), state.size(), MSG_NOSIGNAL,
                                reinterpret_cast<const sockaddr*>(&address), address_bytes);
  if (sent < 0) fail("send");
  return true;
}

}  // namespace sluice
