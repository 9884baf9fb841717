// Tests of the job, in a batch and in a stream. The program as a whole: access_log_test.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "examples/access_log/job.h"
#include "examples/access_log/log_generator.h"
#include "examples/access_log/once.h"
#include "examples/access_log/options.h"
#include "sluice/testkit/testing.h"

namespace access_log {
namespace {

using namespace std::chrono_literals;
using Lines = std::vector<std::string_view>;

std::string folder() { return std::filesystem::path(__FILE__).parent_path().string(); }

std::vector<std::string> generated(std::uint64_t seed, std::size_t count) {
  LogGenerator generator({.seed = seed, .path_count = 300, .client_count = 500, .malformed_per_million = 20'000});
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < count; ++i) lines.push_back(generator.next_line());
  return lines;
}

// The same figures with maps and a loop.
Report expected_of(const Lines& lines) {
  Report report;
  std::map<std::string, std::uint64_t> paths;
  std::map<std::string, std::uint64_t> clients;
  for (const std::string_view text : lines) {
    ++report.lines;
    const auto line = parse_without_end(text);
    if (!line) {
      ++report.malformed;
      continue;
    }
    report.bytes += line->bytes;
    ++report.status[line->status];
    ++paths[std::string(line->target)];
    ++clients[std::string(line->client)];
  }
  for (const auto& [name, count] : paths) report.top_paths.push_back({name, count});
  for (const auto& [name, count] : clients) report.top_clients.push_back({name, count});
  report.top_paths = top(std::move(report.top_paths), 10);
  report.top_clients = top(std::move(report.top_clients), 10);
  return report;
}

Lines views(const std::vector<std::string>& lines) { return {lines.begin(), lines.end()}; }

// Lines of the sidecar: "ok<TAB>target|status|bytes|client" or "malformed<TAB>field". Targets and clients may hold "|".
Report report_of_sidecar(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  Report report;
  std::map<std::string, std::uint64_t> paths;
  std::map<std::string, std::uint64_t> clients;
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  for (std::string text; std::getline(file, text);) {
    ++report.lines;
    if (!text.starts_with("ok\t")) {
      ++report.malformed;
      continue;
    }
    text.erase(0, 3);
    for (std::size_t at = text.size(); at-- > 0;) {
      if (text[at] != '|' || text.size() < at + 6 || text[at + 4] != '|') continue;
      if (!std::all_of(text.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                       text.begin() + static_cast<std::ptrdiff_t>(at) + 4, is_digit)) {
        continue;
      }
      const std::size_t end = text.find('|', at + 5);
      if (end == text.npos) continue;
      ++paths[text.substr(0, at)];
      ++report.status[static_cast<std::uint16_t>(std::stoi(text.substr(at + 1, 3)))];
      report.bytes += std::stoull(text.substr(at + 5, end - at - 5));  // modulo 2^64, as in the program
      ++clients[text.substr(end + 1)];
      break;
    }
  }
  for (const auto& [name, count] : paths) report.top_paths.push_back({name, count});
  for (const auto& [name, count] : clients) report.top_clients.push_back({name, count});
  report.top_paths = top(std::move(report.top_paths), 10);
  report.top_clients = top(std::move(report.top_clients), 10);
  return report;
}

TEST(AccessLogTest, NastyLogComesToWhatItsSidecarSays) {
  const OnceResult result = read_once({.input = InputKind::file, .path = folder() + "/nasty.log"});
  EXPECT_EQ(to_json(result.report), to_json(report_of_sidecar(folder() + "/nasty.expected")));
  EXPECT_EQ(result.samples.size(), sample_count);
}

TEST(AccessLogTest, BatchEqualsALoop) {
  const auto lines = generated(1, 20'000);
  const sluice::Context ctx({.master = "local[2]", .encode_tasks = true, .check_views = true});
  const auto entries = parse_lines(ctx.parallelize(views(lines), 7));
  const auto rows = rows_of(count(entries), Scope::batch).union_with(samples_of(entries)).collect();
  EXPECT_EQ(to_json(report_of(rows, Scope::batch)), to_json(expected_of(views(lines))));
  const auto samples = samples_among(rows);
  ASSERT_EQ(samples.size(), sample_count);
  for (const MalformedSample& sample : samples) {
    ParseError why = ParseError::none;
    EXPECT_FALSE(parse_without_end(sample.line, &why));
    EXPECT_EQ(sample.field, name_of(why));
  }
}

// Whatever the batches, a stream's sums are those of one batch of all lines, and its window those of the lines in it.
TEST(AccessLogTest, StreamEqualsBatch) {
  const auto lines = generated(2, 6000);
  const Lines all = views(lines);
  const std::vector<std::size_t> ends = {1000, 1001, 1001, 3500, 6000};
  std::vector<Lines> batches;
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    batches.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(begin),
                         all.begin() + static_cast<std::ptrdiff_t>(end));
    begin = end;
  }
  sluice::testing::StreamTest t({.batch = 1s});
  const auto counts = count(parse_lines(t.stream<std::string_view>(batches)));
  const auto out = t.run(rows_of(counts, Scope::batch)
                             .union_with(rows_of(over(counts, {.length = 2s}), Scope::window))
                             .union_with(rows_of(since_start(counts), Scope::totals)),
                         batches.size());
  ASSERT_EQ(out.size(), batches.size());
  Lines so_far;
  for (std::size_t b = 0; b < batches.size(); ++b) {
    so_far.insert(so_far.end(), batches[b].begin(), batches[b].end());
    Lines window = b > 0 ? batches[b - 1] : Lines{};
    window.insert(window.end(), batches[b].begin(), batches[b].end());
    EXPECT_EQ(to_json(report_of(out[b].records, Scope::batch)), to_json(expected_of(batches[b]))) << b;
    EXPECT_EQ(to_json(report_of(out[b].records, Scope::window)), to_json(expected_of(window))) << b;
    EXPECT_EQ(to_json(report_of(out[b].records, Scope::totals)), to_json(expected_of(so_far))) << b;
  }
}

TEST(AccessLogTest, DirectoryIsTheSumOfItsFiles) {
  const auto directory = std::filesystem::path(testing::TempDir()) / "access_log_directory";
  std::filesystem::create_directories(directory);
  const auto lines = generated(3, 2000);
  for (std::size_t part = 0; part < 2; ++part) {
    std::ofstream file(directory / (std::to_string(part) + ".log"), std::ios::binary);
    for (std::size_t i = part * 1000; i < (part + 1) * 1000; ++i) file << lines[i] << (i % 2 == 0 ? "\n" : "\r\n");
  }
  const OnceResult result = read_once({.input = InputKind::directory, .path = directory.string()});
  EXPECT_EQ(to_json(result.report), to_json(expected_of(views(lines))));
  std::filesystem::remove_all(directory);
}

TEST(AccessLogTest, EmptyFileGivesAnEmptyReport) {
  const auto path = std::filesystem::path(testing::TempDir()) / "access_log_empty";
  std::ofstream(path).close();
  const OnceResult result = read_once({.input = InputKind::file, .path = path.string()});
  EXPECT_EQ(to_json(result.report), to_json(Report{}));
  std::filesystem::remove(path);
}

TEST(AccessLogTest, EndpointIsHostAndPort) {
  EXPECT_EQ(endpoint_of("localhost:7777")->host, "localhost");
  EXPECT_EQ(endpoint_of("localhost:7777")->port, 7777);
  EXPECT_EQ(endpoint_of("::1:80")->host, "::1");
  for (const char* text : {"", "localhost", ":80", "a:", "a:0", "a:65536", "a:1x", "a:-1"}) {
    EXPECT_FALSE(endpoint_of(text)) << text;
  }
}

}  // namespace
}  // namespace access_log
