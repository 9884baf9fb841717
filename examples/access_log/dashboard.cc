#include "examples/access_log/dashboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

namespace access_log {
namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::size_t history_count = 60;

}  // namespace

Dashboard::Dashboard(const sluice::Clock& clock, int file_descriptor, bool json, sluice::Duration batch,
                     sluice::Duration window, std::string source)
    : clock_(clock), file_descriptor_(file_descriptor), json_(json), begin_(clock.now()), terminal_(file_descriptor) {
  summary_.source = std::move(source);
  summary_.batch_interval = duration_cast<milliseconds>(batch);
  summary_.window_length = duration_cast<milliseconds>(window);
}

void Dashboard::take(const sluice::Records<Row>& rows, sluice::Time) {
  batch_ = report_of(rows, Scope::batch);
  window_ = report_of(rows, Scope::window);
  totals_ = report_of(rows, Scope::totals);
  summary_.malformed = totals_.malformed;
  for (MalformedSample& sample : samples_among(rows)) summary_.malformed_samples.push_back(std::move(sample));
  if (summary_.malformed_samples.size() > sample_count) {
    summary_.malformed_samples.erase(summary_.malformed_samples.begin(),
                                     summary_.malformed_samples.end() - sample_count);
  }
  summary_.window = tally_of(window_);
  summary_.top_paths = window_.top_paths;
  summary_.top_clients = window_.top_clients;
  summary_.totals = tally_of(totals_);
}

void Dashboard::on_batch_completed(const sluice::BatchInfo& batch) {
  if (batch.failed()) return;  // the stream stops with the error
  const double seconds = std::chrono::duration<double>(summary_.batch_interval).count();
  std::uint64_t text_bytes = 0;
  for (const sluice::InputInfo& input : batch.inputs) text_bytes += input.bytes;
  const auto in_us = [](const std::optional<sluice::Duration>& delay) {
    return duration_cast<microseconds>(delay.value_or(sluice::Duration{}));
  };
  ++summary_.batch;
  summary_.batch_time = in_us(batch.processing_delay());
  summary_.scheduling_delay = in_us(batch.scheduling_delay());
  summary_.total_delay = in_us(batch.total_delay());
  summary_.lines_per_second = static_cast<double>(batch_.lines) / seconds;
  summary_.bytes_per_second = static_cast<double>(text_bytes) / seconds;
  summary_.rate_history.push_back(summary_.lines_per_second);
  if (summary_.rate_history.size() > history_count) summary_.rate_history.erase(summary_.rate_history.begin());
  if (json_) {
    say(fmt::format(R"({{"time":{},"batch":{},"window":{},"totals":{}}})"
                    "\n",
                    sluice::to_milliseconds(batch.batch_time), to_json(batch_), to_json(window_), to_json(totals_)));
  } else {
    draw();
  }
  lines_ = totals_.lines;
}

void Dashboard::begin() {
  if (!json_ && screen_of(file_descriptor_).is_terminal) draw();
}

void Dashboard::draw() {
  summary_.uptime = duration_cast<milliseconds>(clock_.now() - begin_);
  if (!terminal_.draw(summary_)) output_lost_ = true;
}

void Dashboard::finish(std::uint64_t too_long) {
  if (json_) return;
  const Tally& all = summary_.totals;
  say(fmt::format("total: {} lines ({} malformed), {} bytes, {} errors (4xx, 5xx) in {:.1f} s\n",
                  all.lines + summary_.malformed + too_long, summary_.malformed + too_long, all.bytes,
                  all.status_class[4] + all.status_class[5],
                  std::chrono::duration<double>(clock_.now() - begin_).count()));
}

void Dashboard::say(std::string_view text) {
  while (!text.empty() && !output_lost_) {
    const ssize_t written = ::write(file_descriptor_, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      output_lost_ = true;
    } else {
      text.remove_prefix(static_cast<std::size_t>(written));
    }
  }
}

}  // namespace access_log
