#include "benchmarks/network.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "sluice/runtime/certificates.h"
#include "sluice/runtime/tls.h"

namespace bench {
namespace {

using sluice::Address;
using sluice::Connection;

constexpr sluice::Time never = sluice::Time::max();
constexpr std::size_t block_bytes = 1 << 20;
constexpr std::size_t trip_bytes = 100;

struct Load {
  std::size_t blocks;
  std::size_t trips;
};

/// One run over one connection.
struct Run {
  double megabytes_per_second = 0;
  double cpu_ns_per_byte = 0;
  double trip_us = 0;
  double connect_ms = 0;
};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void read_exactly(Connection& connection, std::string& buffer, std::size_t size) {
  for (std::size_t got = 0; got < size;) {
    got += *connection.read(std::span(buffer).first(std::min(buffer.size(), size - got)), never);
  }
}

void serve(Connection& connection, const Load& load) {
  std::string buffer(block_bytes, '\0');
  read_exactly(connection, buffer, load.blocks * block_bytes);
  connection.write("k", never);
  for (std::size_t i = 0; i < load.trips; ++i) {
    read_exactly(connection, buffer, trip_bytes);
    connection.write(std::string_view(buffer).substr(0, trip_bytes), never);
  }
}

Run run(sluice::Transport& transport, const Address& address, const Load& load) {
  const auto listener = transport.listen(address);
  const auto server = sluice::system_runtime().spawn("server", [&] { serve(*listener->accept(never), load); });
  Run result;
  auto begin = std::chrono::steady_clock::now();
  const auto connection = transport.connect(listener->address(), never);
  result.connect_ms = seconds_since(begin) * 1e3;

  std::string buffer(block_bytes, 'x');
  const double cpu = BatchTimer::cpu_seconds();
  begin = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < load.blocks; ++i) connection->write(buffer, never);
  read_exactly(*connection, buffer, 1);
  const auto bytes = static_cast<double>(load.blocks * block_bytes);
  result.megabytes_per_second = bytes / seconds_since(begin) / 1e6;
  result.cpu_ns_per_byte = (BatchTimer::cpu_seconds() - cpu) / bytes * 1e9;

  std::vector<double> trips;
  for (std::size_t i = 0; i < load.trips; ++i) {
    begin = std::chrono::steady_clock::now();
    connection->write(std::string_view(buffer).substr(0, trip_bytes), never);
    read_exactly(*connection, buffer, trip_bytes);
    trips.push_back(seconds_since(begin) * 1e6);
  }
  result.trip_us = median(trips);
  server->join();
  return result;
}

struct Way {
  const char* name;
  sluice::Transport& transport;
  Address address;
  std::vector<Run> runs{};

  double middle(double Run::* figure) const {
    std::vector<double> values;
    for (const Run& each : runs) values.push_back(each.*figure);
    return median(values);
  }
};

}  // namespace

std::vector<Figure> network_figures(bool quick) {
  sluice::Runtime& runtime = sluice::system_runtime();
  std::string directory = (std::filesystem::temp_directory_path() / "sluice-bench-XXXXXX").string();
  if (::mkdtemp(directory.data()) == nullptr) return {};
  sluice::make_cluster_certificates(runtime, directory, std::chrono::days(1));
  const auto identity = sluice::load_tls_identity(runtime, sluice::TlsFiles::in(directory));
  const auto tls = sluice::make_tls_transport(runtime, runtime.transport(), identity);
  Way ways[] = {{"TCP", runtime.transport(), Address::tcp("127.0.0.1", 0)},
                {"unix socket", runtime.transport(), {"unix:" + directory + "/s"}},
                {"TLS over TCP", *tls, Address::tcp("127.0.0.1", 0)}};
  const Load load{.blocks = quick ? 200U : 1000U, .trips = 3000};
  for (int round = 0; round < 5; ++round) {
    for (Way& way : ways) way.runs.push_back(run(way.transport, way.address, load));
  }
  runtime.files().remove_all(directory);

  std::vector<Figure> figures;
  for (const Way& way : ways) {
    const std::string name = way.name;
    figures.push_back({name + ", writes of 1 MiB", way.middle(&Run::megabytes_per_second), "MB/s"});
    figures.push_back({"  CPU of both ends", way.middle(&Run::cpu_ns_per_byte), "ns/B"});
    figures.push_back({"  round trip of 100 bytes", way.middle(&Run::trip_us), "us"});
    figures.push_back({"  connect", way.middle(&Run::connect_ms), "ms"});
  }
  return figures;
}

}  // namespace bench
