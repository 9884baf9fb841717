// own main
// Executors that somebody else starts, and drivers that are killed: processes of this binary.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/runtime/certificates.h"
#include "sluice/runtime/process.h"
#include "sluice/sluice.h"
#include "tests/scenario/cluster_jobs.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

/// Certificates of a cluster, in a directory that goes with it.
struct Certificates {
  Certificates() { make_cluster_certificates(system_runtime(), path, std::chrono::days(1)); }
  ~Certificates() { system_runtime().files().remove_all(path); }
  Certificates(const Certificates&) = delete;
  Certificates& operator=(const Certificates&) = delete;
  const std::string path = "/tmp/sluice-certificates-" + std::to_string(system_runtime().random_seed());
};

/// One that was free a moment ago.
std::string free_address() { return system_runtime().transport().listen(Address::tcp("127.0.0.1", 0))->address().text; }

std::unique_ptr<ChildProcess> start_executor(const std::string& driver, const std::string& certificates, int grace_s) {
  return spawn_self({"--sluice.executor=" + driver, "--sluice.certs=" + certificates, "--sluice.cores=1",
                     "--sluice.executor-grace=" + std::to_string(grace_s)});
}

Context on_started(const std::string& listen, const std::string& certificates, int executors) {
  return Context{{.master = "cluster[" + std::to_string(executors) + "]",
                  .partitions = 3,
                  .hash_seed = 42,
                  .executor_timeout = 20s,
                  .listen = listen,
                  .certs = certificates}};
}

TEST(Cluster, ExecutorsThatWereStartedElsewhereRunTheJobsOfOneDriverAfterTheOther) {
  const Certificates certificates;
  const std::string listen = free_address();
  const auto expected = counted(Context{{.master = "local[2]"}}, 10'000);
  std::vector<std::unique_ptr<ChildProcess>> executors;
  // Before there is a driver: they wait.
  for (int i = 0; i < 3; ++i) executors.push_back(start_executor(listen, certificates.path, 60));
  {
    const Context ctx = on_started(listen, certificates.path, 3);
    EXPECT_EQ(counted(ctx, 10'000), expected);
    std::vector<std::int64_t> started;
    for (const auto& executor : executors) started.push_back(executor->pid());
    std::vector<std::int64_t> came = pids(ctx);
    std::sort(came.begin(), came.end());
    std::sort(started.begin(), started.end());
    EXPECT_EQ(came, started);
    executors[0]->kill(SIGKILL);
    EXPECT_EQ(counted(ctx, 10'000), expected);
  }
  // A driver that ends as it should ends its executors.
  EXPECT_EQ(executors[0]->wait(), 128 + SIGKILL);
  EXPECT_EQ(executors[1]->wait(), 0);
  EXPECT_EQ(executors[2]->wait(), 0);
}

// The driver of this is a process of its own (main), which is killed; its executor waits for the next one.
TEST(Cluster, AnExecutorWhoseDriverWasKilledStartsOverAndServesTheNext) {
  const Certificates certificates;
  const std::string listen = free_address();
  const auto executor = start_executor(listen, certificates.path, 60);
  const auto killed = spawn_self({"--driver", listen, certificates.path});
  char byte = 0;
  killed->connection().read({&byte, 1}, system_runtime().clock().now() + 20s);
  EXPECT_EQ(byte, 'x') << "it has run a job";
  killed->kill(SIGKILL);
  EXPECT_EQ(killed->wait(), 128 + SIGKILL);
  {
    const Context ctx = on_started(listen, certificates.path, 1);
    EXPECT_EQ(counted(ctx, 1'000), counted(Context{{.master = "local"}}, 1'000));
    EXPECT_EQ(pids(ctx), std::vector<std::int64_t>{executor->pid()});
  }
  EXPECT_EQ(executor->wait(), 0);
}

/// A sum of all that lines say, in `directory`: in/ is read, and sums/BATCH written.
class Summing {
 public:
  Summing(const Context& context, const std::string& directory)
      : ssc_(context, {.batch = 50ms, .checkpoint = directory + "/ckpt", .checkpoint_interval = 1h}) {
    ssc_.text_file_stream(directory + "/in", {.existing_files = true})
        .map([](std::string_view line) { return std::pair{int{line[0] - '0'}, 1L}; })
        .update_state_by_key([](std::span<const long> now, std::optional<long> before) {
          for (const long n : now) before = before.value_or(0) + n;
          return before;
        })
        .name("sums")
        .foreach_rdd([directory](const Rdd<std::pair<int, long>>& rdd, Time time) {
          std::string text;
          std::map<int, long> sums;
          for (const auto& [key, sum] : rdd.collect()) sums[key] = sum;
          for (const auto& [key, sum] : sums) text += std::to_string(key) + " " + std::to_string(sum) + "\n";
          system_runtime().files().publish(directory + "/sums/" + std::to_string(to_milliseconds(time)), text);
        })
        .name("see");
    ssc_.start();
  }
  StreamingContext& stream() { return ssc_; }

 private:
  StreamingContext ssc_;
};

std::string last_sums(const std::string& directory) {
  FileSystem& files = system_runtime().files();
  std::string last;
  const std::vector<FileInfo> found = files.list(directory + "/sums").value();
  for (const FileInfo& file : found) last = std::max(last, file.path);
  return last.empty() ? last : read_file(files, last);
}

/// Executors, and a driver that was killed when it had sums: a process of its own (main).
class SummingDriverKilled {
 public:
  explicit SummingDriverKilled(int number) {
    files.make_directories(directory + "/in");
    files.make_directories(directory + "/sums");
    files.publish(directory + "/in/1", "1\n1\n2\n");
    for (int i = 0; i < number; ++i) executors.push_back(start_executor(listen, certificates.path, 60));
    const auto killed = spawn_self({"--summing", listen, certificates.path, directory, std::to_string(number)});
    char byte = 0;
    killed->connection().read({&byte, 1}, system_runtime().clock().now() + 20s);
    EXPECT_EQ(byte, 'x') << "the sums were there";
    killed->kill(SIGKILL);
    EXPECT_EQ(killed->wait(), 128 + SIGKILL);
  }

  FileSystem& files = system_runtime().files();
  const Certificates certificates;
  const std::string listen = free_address();
  const std::string directory = certificates.path + "/job";
  std::vector<std::unique_ptr<ChildProcess>> executors;
};

// What the checkpoint has of the state is taken away: the next driver has no other than that of the executors.
TEST(Cluster, ExecutorsOutliveTheirDriverAndTheNextOneGoesOnWithTheirState) {
  SummingDriverKilled before(2);
  auto& [files, certificates, listen, directory, executors] = before;
  const std::vector<FileInfo> kept = files.list(directory + "/ckpt").value();
  for (const FileInfo& file : kept) {
    if (base_name(file.path).starts_with("state-")) files.remove(file.path);
  }
  files.publish(directory + "/in/2", "2\n3\n");
  {
    const Context ctx = on_started(listen, certificates.path, 2);
    Summing again(ctx, directory);
    while (last_sums(directory) != "1 2\n2 2\n3 1\n") ASSERT_FALSE(again.stream().await_termination(20ms));
    std::vector<std::int64_t> came = pids(ctx);
    std::sort(came.begin(), came.end());
    std::vector<std::int64_t> started{executors[0]->pid(), executors[1]->pid()};
    std::sort(started.begin(), started.end());
    EXPECT_EQ(came, started) << "the same processes";
    again.stream().stop({.graceful = true});
  }
  for (const auto& executor : executors) EXPECT_EQ(executor->wait(), 0);
}

// Of three partitions one has lain on each two of the executors.
TEST(Cluster, OfTheStateOnlyWhatNoExecutorHasKeptIsTakenFromTheCheckpoint) {
  SummingDriverKilled before(3);
  auto& [files, certificates, listen, directory, executors] = before;
  for (const std::size_t killed : {0, 1}) {
    executors[killed]->kill(SIGKILL);
    EXPECT_EQ(executors[killed]->wait(), 128 + SIGKILL);
    executors[killed] = start_executor(listen, certificates.path, 60);
  }
  files.publish(directory + "/in/2", "2\n3\n");
  const std::string shown = shown_by([&] {
    Summing again(on_started(before.listen, before.certificates.path, 3), before.directory);
    while (last_sums(before.directory) != "1 2\n2 2\n3 1\n") ASSERT_FALSE(again.stream().await_termination(20ms));
    again.stream().stop({.graceful = true});
  });
  EXPECT_EQ(count_of(shown, "executors have kept the state as of batch"), 1u) << shown;
  EXPECT_EQ(count_of(shown, "partitions that nobody had are taken from the checkpoint"), 1u) << shown;
  for (const auto& executor : executors) EXPECT_EQ(executor->wait(), 0);
}

// While a driver is stopped another one takes over. An executor that comes to it again when it goes on does not listen
// to it.
TEST(Cluster, ADriverThatWasStoppedIsRefusedByItsExecutors) {
  FileSystem& files = system_runtime().files();
  const Certificates certificates;
  const std::string directory = certificates.path + "/job";
  files.make_directories(directory + "/in");
  files.make_directories(directory + "/sums");
  files.publish(directory + "/in/1", "1\n1\n2\n");
  const std::string old_address = free_address();
  const std::string new_address = free_address();
  // Where each of the two executors is to find its driver.
  const auto send = [&](int executor, const std::string& address) {
    files.publish(certificates.path + "/driver-" + std::to_string(executor), address + "\n");
  };
  std::atomic<int> refusals{0};
  std::vector<std::unique_ptr<ChildProcess>> executors;
  for (int i = 0; i < 2; ++i) {
    executors.push_back(
        spawn_self({"--sluice.executor=@" + certificates.path + "/driver-" + std::to_string(i),
                    "--sluice.certs=" + certificates.path, "--sluice.cores=1", "--sluice.executor-grace=60"},
                   [&](std::string_view line) {
                     if (line.find("of epoch 1, and that of epoch 2") != line.npos) ++refusals;
                   }));
    send(i, old_address);
  }
  const auto stopped = spawn_self({"--summing", old_address, certificates.path, directory, "2"});
  char byte = 0;
  stopped->connection().read({&byte, 1}, system_runtime().clock().now() + 20s);
  ASSERT_EQ(byte, 'x') << "the sums were there";
  stopped->kill(SIGSTOP);
  for (int i = 0; i < 2; ++i) send(i, new_address);
  const std::string shown = shown_by([&] {
    files.publish(directory + "/in/2", "2\n3\n");
    const Context ctx = on_started(new_address, certificates.path, 2);
    Summing next(ctx, directory);
    while (last_sums(directory) != "1 2\n2 2\n3 1\n") ASSERT_FALSE(next.stream().await_termination(5ms));
    stopped->kill(SIGCONT);
    send(0, old_address);
    while (refusals == 0) ASSERT_FALSE(next.stream().await_termination(5ms));
    send(0, new_address);
    while (pids(ctx).size() != 2) ASSERT_FALSE(next.stream().await_termination(5ms));
    files.publish(directory + "/in/3", "3\n");
    while (last_sums(directory) != "1 2\n2 2\n3 2\n") ASSERT_FALSE(next.stream().await_termination(5ms));
    next.stream().stop({.graceful = true});
  });
  EXPECT_EQ(count_of(shown, "executors have kept the state as of batch"), 1u) << shown;
  for (const auto& executor : executors) EXPECT_EQ(executor->wait(), 0);
  stopped->kill(SIGKILL);
  EXPECT_EQ(stopped->wait(), 128 + SIGKILL) << "it was there all the time";
}

/// Stores words on an executor, once in all lives, and says so: directory/stored.
class Words : public Receiver<std::string> {
 public:
  explicit Words(std::string directory) : directory_(std::move(directory)) {}
  void run(ReceiverContext<std::string>& context) override {
    const bool was_stored = !context.last_position().empty();
    for (int i = 0; !was_stored && i < 3; ++i) {
      const std::vector<std::string> block{"word " + std::to_string(i)};
      context.store(block, std::to_string(i));
    }
    if (!was_stored) system_runtime().files().publish(directory_ + "/stored", "");
    context.end_of_input();
    while (context.wait_for(1h)) {
    }
  }

 private:
  std::string directory_;
};

/// Writes what it sees to directory/seen. Before a batch is run, its log of blocks is damaged.
StreamingContext receiving(const Context& context, Duration batch, const std::string& directory) {
  StreamingContext ssc(context, {.batch = batch, .checkpoint = directory + "/ckpt"});
  ssc.receiver_stream<std::string>(with(directory, [](const std::string& in) { return std::make_unique<Words>(in); }))
      .foreach_rdd([directory](const Rdd<std::string>& rdd, Time time) {
        FileSystem& files = system_runtime().files();
        const std::vector<FileInfo> log = files.list(directory + "/ckpt/wal").value();
        for (const FileInfo& file : log) {
          std::string bytes = read_file(files, file.path);
          const auto at = bytes.find("word ");
          if (at == std::string::npos) continue;
          bytes[at] = 'W';
          files.publish(file.path, bytes);
        }
        std::string words;
        for (const std::string& word : rdd.collect()) words += word + "\n";
        if (!words.empty()) files.publish(directory + "/seen/" + std::to_string(to_milliseconds(time)), words);
      })
      .name("see");
  ssc.start();
  return ssc;
}

TEST(Cluster, BlocksOfReceiversThatExecutorsHaveKeptAreNotReadFromTheLog) {
  FileSystem& files = system_runtime().files();
  const Certificates certificates;
  const std::string listen = free_address();
  const std::string directory = certificates.path + "/job";
  files.make_directories(directory + "/seen");
  std::vector<std::unique_ptr<ChildProcess>> executors;
  for (int i = 0; i < 2; ++i) executors.push_back(start_executor(listen, certificates.path, 60));
  const auto killed = spawn_self({"--receiving", listen, certificates.path, directory});
  char byte = 0;
  killed->connection().read({&byte, 1}, system_runtime().clock().now() + 20s);
  ASSERT_EQ(byte, 'x') << "the words were stored";
  killed->kill(SIGKILL);
  EXPECT_EQ(killed->wait(), 128 + SIGKILL);
  const std::string shown = shown_by([&] {
    StreamingContext again = receiving(on_started(listen, certificates.path, 2), 20ms, directory);
    while (files.list(directory + "/seen").value().empty()) ASSERT_FALSE(again.await_termination(5ms));
    again.stop({.graceful = true});
  });
  EXPECT_EQ(count_of(shown, "executors have kept 3 blocks of receivers"), 1u) << shown;
  const std::vector<FileInfo> seen = files.list(directory + "/seen").value();
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(read_file(files, seen[0].path), "word 0\nword 1\nword 2\n");
  for (const auto& executor : executors) EXPECT_EQ(executor->wait(), 0);
}

// When an action has returned, what its tasks have printed is here; a loop that prints holds up nobody.
TEST(Cluster, WhatExecutorsPrintThatWereStartedElsewhereIsShownHereAndThere) {
  const Certificates certificates;
  const std::string listen = free_address();
  std::vector<std::string> there;
  const auto executor = spawn_self({"--sluice.executor=" + listen, "--sluice.certs=" + certificates.path,
                                    "--sluice.cores=1", "--sluice.listen=127.0.0.1:0"},
                                   [&](std::string_view line) { there.emplace_back(line); });
  constexpr int many = 50'000;
  const std::string shown = shown_by([&] {
    const Context ctx = on_started(listen, certificates.path, 1);
    print_numbers(ctx, 100, " of a task");
    print_numbers(ctx, many, " of a loop");
  });
  EXPECT_EQ(executor->wait(), 0);
  std::string all_there;
  for (const std::string& line : there) all_there += line + "\n";
  for (const char* what : {"number ", "result "}) {
    for (int i = 0; i < 100; ++i) {
      const std::string line = what + std::to_string(i) + " of a task\n";
      EXPECT_EQ(count_of(shown, "[executor 1 at 127.0.0.1] " + line), 1u) << line;
    }
  }
  EXPECT_EQ(count_of(all_there, " of a task\n"), 200u);
  EXPECT_EQ(count_of(all_there, " of a loop\n"), 2u * many) << "its own output has all";
  EXPECT_GE(count_of(shown, " of a loop\n"), 1'000u);
  EXPECT_LT(count_of(shown, " of a loop\n"), 2u * many) << "the rest is dropped";
  EXPECT_NE(shown.find("lines are not shown here"), std::string::npos);
}

TEST(Cluster, AnExecutorWithoutCertificatesOrWithThoseOfAnotherClusterIsNoMember) {
  const Certificates certificates;
  const Certificates others;
  const std::string listen = free_address();
  EXPECT_EQ(start_executor(listen, "/nowhere", 60)->wait(), 2);
  const auto stranger = start_executor(listen, others.path, 1);
  const auto member = start_executor(listen, certificates.path, 60);
  const Context ctx = on_started(listen, certificates.path, 1);
  EXPECT_EQ(stranger->wait(), 3) << "it has tried for as long as it was told to";
  EXPECT_EQ(pids(ctx), std::vector<std::int64_t>{member->pid()});
  try {
    on_started("0.0.0.0:0", "", 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::bad_setting) << error.what();
  }
}

/// Runs a job, says so, and lives until it is killed.
void be_a_driver(const std::string& listen, const std::string& certificates) {
  const auto parent = connection_to_parent();
  const Context ctx = on_started(listen, certificates, 1);
  if (counted(ctx, 1'000).size() == 100) parent->write("x", Time::max());
  char byte = 0;
  parent->read({&byte, 1}, Time::max());
}

/// Runs the stream, says when it has its sums, and lives until it is killed, also when its directory is taken.
void be_a_summing_driver(const std::string& listen, const std::string& certificates, const std::string& directory,
                         int executors) {
  const auto parent = connection_to_parent();
  const Context ctx = on_started(listen, certificates, executors);
  Summing summing(ctx, directory);
  while (last_sums(directory) != "1 2\n2 1\n") summing.stream().await_termination(5ms);
  parent->write("x", Time::max());
  try {
    summing.stream().await_termination();
  } catch (const Error& error) {
    if (error.code() != Code::fenced) throw;
  }
  char byte = 0;
  parent->read({&byte, 1}, Time::max());
}

/// The same, when all that its receiver has is stored; no batch comes.
void be_a_receiving_driver(const std::string& listen, const std::string& certificates, const std::string& directory) {
  const auto parent = connection_to_parent();
  StreamingContext ssc = receiving(on_started(listen, certificates, 2), 1h, directory);
  while (!system_runtime().files().stat(directory + "/stored")) ssc.await_termination(5ms);
  parent->write("x", Time::max());
  ssc.await_termination();
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  if (argc == 4 && std::string_view(argv[1]) == "--driver") {
    sluice::be_a_driver(argv[2], argv[3]);
    return 0;
  }
  if (argc == 6 && std::string_view(argv[1]) == "--summing") {
    sluice::be_a_summing_driver(argv[2], argv[3], argv[4], std::stoi(argv[5]));
    return 0;
  }
  if (argc == 5 && std::string_view(argv[1]) == "--receiving") {
    sluice::be_a_receiving_driver(argv[2], argv[3], argv[4]);
    return 0;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
