#include "benchmarks/nodes.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "benchmarks/stream.h"
#include "sluice/cluster/executor.h"
#include "sluice/cluster/network.h"
#include "sluice/cluster/scheduler.h"
#include "sluice/runtime/certificates.h"

namespace bench {
namespace {

using namespace std::chrono_literals;
using sluice::Runtime;

constexpr double microseconds = 1e6;

/// An address of this host that is free.
std::string free_address() {
  return sluice::system_runtime().transport().listen(sluice::Address::tcp("127.0.0.1", 0))->address().text;
}

/// CPU that `work` takes of this process, which is the driver's, and the time until it is done.
struct Cost {
  double cpu = 0;
  double wall = 0;
};

template <class Work>
Cost cost_of(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  const double cpu = BatchTimer::cpu_seconds();
  work();
  return {BatchTimer::cpu_seconds() - cpu, seconds_since(begin)};
}

std::vector<int> numbers(std::size_t count) {
  std::vector<int> all(count);
  for (std::size_t i = 0; i < count; ++i) all[i] = static_cast<int>(i);
  return all;
}

/// The driver of so many executors.
class Nodes {
 public:
  Nodes(std::size_t count, const std::string& certificates) {
    const std::string driver = free_address();
    process_ = sluice::spawn_self({"--nodes", std::to_string(count), driver, certificates});
    joined = cost_of([&] {
      context_ =
          std::make_unique<sluice::Context>(sluice::ContextOptions{.app = "bench",
                                                                   .master = "cluster[" + std::to_string(count) + "]",
                                                                   .partitions = 2,
                                                                   .executor_timeout = timeout,
                                                                   .listen = driver,
                                                                   .certs = certificates});
    });
  }
  ~Nodes() {
    context_.reset();
    process_->wait();
  }
  Nodes(const Nodes&) = delete;
  Nodes& operator=(const Nodes&) = delete;
  const sluice::Context& context() const { return *context_; }

  /// Five signs of life in this time. Longer than by default: these processes share two cores.
  static constexpr sluice::Duration timeout = 5s;
  Cost joined;

 private:
  std::unique_ptr<sluice::ChildProcess> process_;
  std::unique_ptr<sluice::Context> context_;
};

/// The median over some rounds.
template <class Job>
Cost job_cost(std::size_t rounds, const Job& job) {
  job();  // connections are made
  std::vector<double> cpu, wall;
  for (std::size_t i = 0; i < rounds; ++i) {
    const Cost cost = cost_of(job);
    cpu.push_back(cost.cpu);
    wall.push_back(cost.wall);
  }
  return {median(cpu), median(wall)};
}

/// As many tasks that write a shuffle as there are that read it; of what they make nothing comes to the driver.
void shuffle_job(const sluice::Context& context, std::size_t partitions) {
  context.parallelize(numbers(partitions), partitions)
      .map([](int number) { return std::pair{number, 1L}; })
      .reduce_by_key(std::plus{}, partitions)
      .filter([](const std::pair<int, long>&) { return false; })
      .collect();
}

/// From a question of the driver about state to its answer, one executor after the other.
double question_seconds(const sluice::Context& context) {
  auto& members = dynamic_cast<sluice::detail::ClusterScheduler&>(context.engine()->runner()).members();
  constexpr std::size_t questions = 1'000;
  const std::vector<sluice::detail::ExecutorId> ids = members.ready();
  const Cost cost = cost_of([&] {
    for (std::size_t i = 0; i < questions; ++i) {
      sluice::detail::StateRequest request;
      request.what = sluice::detail::StateRequest::What::forget_kept;
      members.call(ids[i % ids.size()], std::move(request));
    }
  });
  return cost.wall / questions;
}

}  // namespace

void run_nodes(const std::string& count, const std::string& driver, const std::string& certificates) {
  Runtime& runtime = sluice::system_runtime();
  const auto network = sluice::detail::secured_network(runtime, certificates);
  std::vector<std::thread> threads;
  for (int i = 0; i < std::stoi(count); ++i) {
    threads.emplace_back([&, i] {
      sluice::detail::ExecutorOptions options{.driver = driver, .token = network.token, .listen = "127.0.0.1:0"};
      options.host = "host-" + std::to_string(i);
      // One that comes before the driver listens comes again.
      for (bool has_come = false; !has_come;) {
        try {
          sluice::detail::Executor(runtime, *network.transport, options).run();
          has_come = true;
        } catch (const sluice::Error& error) {
          if (error.code() != sluice::Code::network_failed) throw;
          runtime.wait_for(10ms);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::vector<Figure> nodes_figures(bool quick) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch.path());
  sluice::make_cluster_certificates(sluice::system_runtime(), scratch.path(), std::chrono::days(1));
  std::vector<Figure> figures;
  for (const std::size_t count :
       quick ? std::vector<std::size_t>{8, 32, 100} : std::vector<std::size_t>{8, 32, 100, 1000}) {
    const Nodes nodes(count, scratch.path());
    const auto n = static_cast<double>(count);
    figures.push_back({std::to_string(count) + " executors have come, TLS: after", nodes.joined.wall, "s"});
    figures.push_back({"  CPU of the driver for one of them", nodes.joined.cpu / n * microseconds, "us"});
    const double seconds = quick ? 2 : 5;
    const Cost idle = cost_of([&] { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); });
    figures.push_back({"  for a sign of life and its answer", idle.cpu / n / seconds * microseconds, "us"});
    const auto job_of = [&](std::size_t tasks) {
      nodes.context().parallelize(numbers(tasks), tasks).filter([](int) { return false; }).collect();
    };
    const Cost tasks = job_cost(count < 100 ? 200 : 20, [&] { job_of(count); });
    figures.push_back({"  for a task (as many as executors)", tasks.cpu / n * microseconds, "us"});
    figures.push_back({"  time of such a job, all on this machine", tasks.wall * 1e3, "ms"});
    const Cost more = job_cost(count < 100 ? 100 : 5, [&] { job_of(8 * count); });
    figures.push_back({"  for a task (eight to each)", more.cpu / n / 8 * microseconds, "us"});
    figures.push_back({"  time of such a job", more.wall * 1e3, "ms"});
    figures.push_back(
        {"  a question about state and its answer", question_seconds(nodes.context()) * microseconds, "us"});
    if (count != 32) continue;  // of more there would be too many connections for one process
    const Cost shuffle = job_cost(20, [&] { shuffle_job(nodes.context(), count); });
    figures.push_back({"  time of a shuffle among them", shuffle.wall * 1e3, "ms"});
  }
  const Nodes nodes(4, scratch.path());
  for (const std::size_t partitions : {8, 100, 1000}) {
    const auto p = static_cast<double>(partitions);
    const Cost job = job_cost(partitions < 1000 ? 20 : 5, [&] { shuffle_job(nodes.context(), partitions); });
    figures.push_back({"shuffle of " + std::to_string(partitions) + " to as many: a pair of tasks",
                       job.cpu / p * microseconds, "us"});
    figures.push_back({"  time of it on 4 executors here", job.wall * 1e3, "ms"});
  }
  return figures;
}

}  // namespace bench
