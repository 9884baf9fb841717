// Jobs that tests of clusters run, and what they look at.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <iostream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "sluice/cluster/scheduler.h"
#include "sluice/sluice.h"

namespace sluice {

inline detail::ClusterScheduler& scheduler_of(const Context& ctx) {
  return dynamic_cast<detail::ClusterScheduler&>(ctx.engine()->runner());
}
inline detail::Members& members_of(const Context& ctx) { return scheduler_of(ctx).members(); }
inline std::vector<std::int64_t> pids(const Context& ctx) { return members_of(ctx).pids(); }

inline std::map<int, long> counted(const Context& ctx, int numbers) {
  std::vector<int> all(static_cast<std::size_t>(numbers));
  for (int i = 0; i < numbers; ++i) all[static_cast<std::size_t>(i)] = i;
  std::map<int, long> counts;
  for (const auto& [key, count] :
       ctx.parallelize(all, 5).map([](int x) { return std::pair{x % 100, 1L}; }).reduce_by_key(std::plus{}).collect()) {
    counts[key] += count;
  }
  return counts;
}

/// What `body` lets appear on standard error.
template <class Body>
std::string shown_by(const Body& body) {
  ::testing::internal::CaptureStderr();
  body();
  return ::testing::internal::GetCapturedStderr();
}
inline std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

/// Records from 0 on, each printed to both streams, with a word, by the task that has it.
inline void print_numbers(const Context& ctx, int numbers, const std::string& word) {
  std::vector<int> all(static_cast<std::size_t>(numbers));
  for (int i = 0; i < numbers; ++i) all[static_cast<std::size_t>(i)] = i;
  ctx.parallelize(all, 4)
      .map(with(word,
                [](const std::string& of, int x) {
                  std::cerr << "number " << x << of << "\n";
                  std::cout << "result " << x << of << "\n";
                  return x;
                }))
      .collect();
}

}  // namespace sluice
