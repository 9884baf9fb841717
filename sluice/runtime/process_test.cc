#include "sluice/runtime/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/output.h"

namespace sluice {
namespace {

const Time never = Time::max();

std::string read_some(Connection& connection) {
  std::string buffer(100, '\0');
  buffer.resize(connection.read(buffer, never).value());
  return buffer;
}

constexpr const char* child_marker = "--sluice-process-test-child";

void echo() {
  const auto parent = connection_to_parent();
  for (std::string text = read_some(*parent); !text.empty(); text = read_some(*parent)) parent->write(text, never);
}

// Does what the parent writes, one letter a step, and tells of each signal. It raises them itself: ThreadSanitizer
// (g++ 12) puts a signal from outside off until a call of its own choice, and has been seen to do so for ever.
[[noreturn]] void watch_signals() {
  const auto parent = connection_to_parent();
  const SignalWatch watch([&](int signal) { parent->write("signal " + std::to_string(signal), never); });
  for (std::string step = read_some(*parent); !step.empty(); step = read_some(*parent)) {
    ::raise(step == "t" ? SIGTERM : SIGINT);
  }
  ::_exit(0);
}

// What crosses the boundary of a line must be put together again, and the end of it has none.
[[noreturn]] void print_and_die() {
  std::fprintf(stderr, "one\ntw");
  std::fprintf(stdout, "in between\n");
  std::fflush(stdout);
  std::fprintf(stderr, "o\nlast words");
  ::raise(SIGKILL);
  ::_exit(0);
}

// Whoever it has started goes on, with its standard error.
[[noreturn]] void leave_someone_behind() {
  if (::fork() == 0) {
    read_some(*connection_to_parent());
    ::_exit(0);
  }
  std::fprintf(stderr, "from the first\n");
  ::_exit(0);
}

[[noreturn]] void print_copied() {
  const std::ios_base::Init streams;  // they are not there yet: this is before main
  const auto parent = connection_to_parent();
  copy_output([&](OutputStream stream, std::string_view piece) {
    parent->write((stream == OutputStream::standard_error ? "e:" : "o:") + std::string(piece), never);
  });
  std::cerr << "1\n";
  std::fprintf(stderr, "%s\n", "2");
  std::cout << "3" << 3;
  std::printf("3\n");
  std::clog << '4' << std::endl;
  // Round all streams: it has to come through all the same.
  if (::write(STDERR_FILENO, "5\n", 2) != 2) ::_exit(1);
  std::abort();
}

[[noreturn]] void act_as_child(std::string_view role) {
  if (role == "print-and-die") print_and_die();
  if (role == "leave-someone-behind") leave_someone_behind();
  if (role == "print-copied") print_copied();
  if (role == "echo") echo();
  if (role == "exit-7") ::_exit(7);
  if (role == "watch-signals") watch_signals();
  if (role == "wait") read_some(*connection_to_parent());
  ::_exit(0);
}

// Before main, because all tests of a folder share the main of GoogleTest. glibc hands the arguments to constructors.
__attribute__((constructor)) void become_child(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], child_marker) == 0) act_as_child(argv[2]);
}

std::unique_ptr<ChildProcess> spawn_child(const std::string& role) { return spawn_self({child_marker, role}); }

TEST(ChildProcesses, TalkToTheirParent) {
  const auto child = spawn_child("echo");
  child->connection().write(std::string("hello"), never);
  EXPECT_EQ(read_some(child->connection()), "hello");
  child->connection().close();
  EXPECT_EQ(child->wait(), 0);
}

TEST(ChildProcesses, GiveBackTheirExitStatus) {
  const auto child = spawn_child("exit-7");
  EXPECT_EQ(child->wait(), 7);
  EXPECT_EQ(child->wait(), 7);
}

TEST(ChildProcesses, GiveBackTheSignalThatKilledThem) {
  const auto child = spawn_child("wait");
  child->kill(SIGKILL);
  EXPECT_EQ(child->wait(), 128 + SIGKILL);
}

TEST(ChildProcesses, EndTheStreamWhenTheyDie) {
  const auto child = spawn_child("wait");
  child->kill(SIGKILL);
  EXPECT_EQ(read_some(child->connection()), "");
}

TEST(ChildProcesses, DoNotOutliveTheirOwner) {
  int pid = 0;
  {
    const auto child = spawn_child("wait");
    pid = child->pid();
  }
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST(ChildProcesses, CannotBeKilledOnceWaitedFor) {
  const auto child = spawn_child("exit-7");
  child->wait();
  child->kill(SIGKILL);
  EXPECT_EQ(child->wait(), 7);
}

/// The child of that role, whose lines are kept.
struct PrintingChild {
  explicit PrintingChild(const std::string& role)
      : process(spawn_self({child_marker, role}, [this](std::string_view line) { lines.emplace_back(line); })) {}
  std::vector<std::string> lines;
  std::unique_ptr<ChildProcess> process;
};

TEST(ChildProcesses, HandOverAllThatTheyHavePrintedWhateverTheirEnd) {
  PrintingChild child("print-and-die");
  EXPECT_EQ(child.process->wait(), 128 + SIGKILL);
  EXPECT_THAT(child.lines, ::testing::UnorderedElementsAre("one", "two", "in between", "last words"));
}

TEST(ChildProcesses, AreNotWaitedForLongerBecauseOthersHaveTheirOutput) {
  PrintingChild child("leave-someone-behind");
  EXPECT_EQ(child.process->wait(), 0);
  EXPECT_THAT(child.lines, ::testing::ElementsAre("from the first"));
}

TEST(Output, IsCopiedAndGoesWhereItWentTheLastWordsToo) {
  PrintingChild child("print-copied");
  std::string copy;
  for (std::string some = read_some(child.process->connection()); !some.empty();) {
    copy += some;
    some = read_some(child.process->connection());
  }
  EXPECT_EQ(child.process->wait(), 128 + SIGABRT);
  EXPECT_THAT(child.lines, ::testing::IsSupersetOf({"1", "2", "333", "4", "5"}));
  EXPECT_EQ(copy, "e:1\ne:2\no:333\ne:4e:\n");
}

TEST(Output, IsPutTogetherToLines) {
  Lines lines;
  std::vector<std::string> got;
  const auto take = [&](std::string_view line) { got.emplace_back(line); };
  lines.add("a", take);
  lines.add("b\n\nc", take);
  EXPECT_EQ(got, (std::vector<std::string>{"ab", ""}));
  lines.finish(take);
  lines.finish(take);
  EXPECT_EQ(got, (std::vector<std::string>{"ab", "", "c"}));
  got.clear();
  lines.add(std::string(2 * Lines::line_bytes_max + 3, 'x') + "\n", take);
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got[0].size(), Lines::line_bytes_max);
  EXPECT_EQ(got[2], "xxx");
  got.clear();
  lines.add(std::string(Lines::line_bytes_max, 'x'), take);
  lines.add("\n", take);
  EXPECT_EQ(got.size(), 1u);
}

TEST(ChildProcesses, OfAnotherProgramHaveTheConnectionAsStandardInputAndOutput) {
  const auto child = spawn_program("cat", {"-u"});
  child->connection().write("hello", never);
  EXPECT_EQ(read_some(child->connection()), "hello");
  child->connection().close();
  EXPECT_EQ(child->wait(), 0);
  EXPECT_EQ(spawn_program("sluice-no-such-program", {}), nullptr);
}

TEST(Programs, KnowTheirPath) { EXPECT_THAT(program_path(), ::testing::EndsWith("/sluice_runtime_process_test")); }

TEST(SignalWatches, TellOfTheFirstSignal) {
  const auto child = spawn_child("watch-signals");
  child->connection().write("t", never);
  EXPECT_EQ(read_some(child->connection()), "signal " + std::to_string(SIGTERM));
  child->connection().close();
  EXPECT_EQ(child->wait(), 0);
}

TEST(SignalWatches, LetTheSecondSignalEndTheProcess) {
  const auto child = spawn_child("watch-signals");
  child->connection().write("t", never);
  EXPECT_EQ(read_some(child->connection()), "signal " + std::to_string(SIGTERM));
  child->connection().write("i", never);
  EXPECT_EQ(child->wait(), 128 + SIGINT);
}

TEST(SignalWatches, GiveTheSignalsBack) {
  struct sigaction before{};
  struct sigaction after{};
  ::sigaction(SIGTERM, nullptr, &before);
  {
    const SignalWatch watch([](int) {});
  }
  ::sigaction(SIGTERM, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
}

TEST(SignalWatches, CanFollowOneAnother) {
  for (int signal : {SIGINT, SIGTERM}) {
    int seen = 0;
    {
      const SignalWatch watch([&](int which) { seen = which; });
      ::raise(signal);
    }
    EXPECT_EQ(seen, signal);
  }
}

int some_function(int x) { return x + 1; }

TEST(Images, HoldTheFunctionsOfTheProgram) {
  const void* address = reinterpret_cast<const void*>(&some_function);
  const Image* image = image_of(address);
  ASSERT_NE(image, nullptr);
  EXPECT_LE(image->base, reinterpret_cast<std::uintptr_t>(address));
  EXPECT_GT(image->end, reinterpret_cast<std::uintptr_t>(address));
  EXPECT_NE(image->build_id, 0u);
}

TEST(Images, OfALibraryIsAnotherThanThatOfTheProgram) {
  const Image* library = image_of(reinterpret_cast<const void*>(&::getpid));
  ASSERT_NE(library, nullptr);
  EXPECT_NE(library, image_of(reinterpret_cast<const void*>(&some_function)));
  EXPECT_NE(library->path.find(".so"), std::string::npos) << library->path;
}

TEST(Images, AreFoundByTheirBuildId) {
  const Image* image = image_of(reinterpret_cast<const void*>(&some_function));
  ASSERT_NE(image, nullptr);
  EXPECT_EQ(image_with_build_id(image->build_id), image);
}

TEST(Images, ThatAreNotLoadedAreNotFound) {
  int local = 0;
  EXPECT_EQ(image_of(&local), nullptr);
  EXPECT_EQ(image_with_build_id(0x123456789), nullptr);
}

std::uintptr_t number_of(const void* address) { return reinterpret_cast<std::uintptr_t>(address); }

constexpr std::size_t reserved_page_count = 10'000;
char* const reserved_pages = static_cast<char*>(
    ::mmap(nullptr, 4096 * reserved_page_count, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));

int initialised = 1;
int zeroed[100];

TEST(MemoryKinds, SmallAllocationsAreHeap) {
  const auto text = std::make_unique<std::string>("x");
  EXPECT_EQ(memory_kind(number_of(text.get())), MemoryKind::heap);
}

TEST(MemoryKinds, LargeAllocationsAreHeap) {
  const std::string large(64 << 20, 'x');
  EXPECT_EQ(memory_kind(number_of(large.data() + large.size() / 2)), MemoryKind::heap);
}

TEST(MemoryKinds, LocalVariablesAreStack) {
  int local = 0;
  EXPECT_EQ(memory_kind(number_of(&local)), MemoryKind::stack);
}

TEST(MemoryKinds, StacksOfOtherThreadsCountAsHeap) {
  system_runtime()
      .spawn("stack",
             [] {
               int local = 0;
               EXPECT_EQ(memory_kind(number_of(&local)), MemoryKind::heap);
             })
      ->join();
}

TEST(MemoryKinds, CodeConstantsAndGlobalsAreImage) {
  EXPECT_EQ(memory_kind(number_of(reinterpret_cast<const void*>(&some_function))), MemoryKind::image);
  EXPECT_EQ(memory_kind(number_of("a literal")), MemoryKind::image);
  EXPECT_EQ(memory_kind(number_of(&initialised)), MemoryKind::image);
  EXPECT_EQ(memory_kind(number_of(&zeroed[50])), MemoryKind::image);
}

TEST(MemoryKinds, NumbersAreUnmapped) {
  for (std::uintptr_t number : {std::uintptr_t{0}, std::uintptr_t{42}, std::uintptr_t{65'535}, UINTPTR_MAX}) {
    EXPECT_EQ(memory_kind(number), MemoryKind::unmapped);
  }
  double one = 1;
  std::uintptr_t bits = 0;
  std::memcpy(&bits, &one, sizeof bits);
  EXPECT_EQ(memory_kind(bits), MemoryKind::unmapped);
}

// A page of this process that cannot be accessed. It was reserved before memory_kind first read the map and is given
// out once: where other tests had memory and freed it, the cached map may still know that memory.
void* closed_page() {
  static std::atomic<std::size_t> next{0};
  return reserved_pages + 4096 * (next.fetch_add(1) % reserved_page_count);
}

TEST(MemoryKinds, GuardPagesAreUnmapped) { EXPECT_EQ(memory_kind(number_of(closed_page())), MemoryKind::unmapped); }

// As malloc does when an arena of a thread grows.
TEST(MemoryKinds, WhatWasOpenedSinceIsFound) {
  void* page = closed_page();
  ASSERT_EQ(memory_kind(number_of(page)), MemoryKind::unmapped);
  ASSERT_EQ(::mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
  EXPECT_EQ(memory_kind(number_of(page)), MemoryKind::heap);
}

TEST(Process, ReadsItsEnvironment) {
  ::setenv("SLUICE_PROCESS_TEST", "value", 1);
  EXPECT_EQ(environment("SLUICE_PROCESS_TEST"), "value");
  ::unsetenv("SLUICE_PROCESS_TEST");
  EXPECT_EQ(environment("SLUICE_PROCESS_TEST"), std::nullopt);
}

// Standard input is a pipe of the test's while this lives.
class InputPipe {
 public:
  InputPipe() : kept_(::dup(STDIN_FILENO)) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    ::dup2(ends[0], STDIN_FILENO);
    ::close(ends[0]);
    write_end_ = ends[1];
  }
  ~InputPipe() {
    end();
    ::dup2(kept_, STDIN_FILENO);
    ::close(kept_);
  }
  void write(std::string_view text) { EXPECT_EQ(::write(write_end_, text.data(), text.size()), ssize_t(text.size())); }
  void end() {
    if (write_end_ >= 0) ::close(write_end_);
    write_end_ = -1;
  }

 private:
  const int kept_;
  int write_end_ = -1;
};

TEST(StandardInput, IsReadToItsEnd) {
  InputPipe pipe;
  const auto input = standard_input();
  pipe.write("bytes");
  EXPECT_EQ(read_some(*input), "bytes");
  char byte = 0;
  EXPECT_EQ(input->read({&byte, 1}, Time()), std::nullopt);
  EXPECT_EQ(input->read({&byte, 1}, system_runtime().clock().now() + std::chrono::milliseconds(1)), std::nullopt);
  pipe.end();
  EXPECT_EQ(read_some(*input), "");
}

TEST(StandardInput, CloseWakesTheReader) {
  InputPipe pipe;
  const auto input = standard_input();
  std::string error;
  const auto reader = system_runtime().spawn("reader", [&] {
    try {
      read_some(*input);
    } catch (const Error& closed) {
      error = closed.what();
    }
  });
  input->close();
  reader->join();
  EXPECT_NE(error.find("SLU-402"), std::string::npos);
}

TEST(Process, HasACore) { EXPECT_GE(core_count(), 1u); }

TEST(Process, UsesCpuTime) {
  const Duration before = process_cpu_time();
  while (process_cpu_time() == before) continue;
  EXPECT_GT(process_cpu_time(), before);
}

TEST(Process, KnowsItsMemory) {
  EXPECT_GT(resident_bytes(), 100'000u);
  EXPECT_GE(resident_bytes_peak(), resident_bytes() / 2);
}

TEST(Supervisor, IsToldThroughItsSocket) {
  ::unsetenv("NOTIFY_SOCKET");
  EXPECT_FALSE(notify_supervisor("READY=1"));
  for (const bool abstract : {false, true}) {
    const std::string path = (abstract ? "@sluice-notify-" : "/tmp/sluice-notify-") + std::to_string(::getpid());
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, path.size());
    if (abstract) address.sun_path[0] = '\0';
    const int socket = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(::bind(socket, reinterpret_cast<const sockaddr*>(&address),
                     static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size())),
              0);
    ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
    EXPECT_TRUE(notify_supervisor("READY=1"));
    char told[32] = {};
    EXPECT_EQ(::recv(socket, told, sizeof told, 0), 7);
    EXPECT_STREQ(told, "READY=1");
    ::close(socket);
    if (!abstract) ::unlink(path.c_str());
    try {
      notify_supervisor("READY=1");
      ADD_FAILURE() << "nobody listens";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::network_failed);
      EXPECT_THAT(error.what(), testing::HasSubstr(path));
    }
  }
  ::unsetenv("NOTIFY_SOCKET");
}

}  // namespace
}  // namespace sluice
