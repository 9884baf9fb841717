#include "sluice/api/streaming_context.h"

#include <algorithm>
#include <cstdio>

#include "sluice/stream/socket_input.h"
#include "sluice/stream/stdin_input.h"

namespace sluice {
namespace {

std::vector<std::string> comma_separated(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// Value of a setting that is one of two words.
bool is_second(detail::SettingsReader& settings, const char* name, bool in_code, const char* first,
               const char* second) {
  const std::string value = settings.text(name, in_code ? second : "", first);
  if (value != first && value != second) {
    throw Error(Code::bad_setting, {.why = std::string("--sluice.") + name + ": \"" + value + "\" is neither " + first +
                                           " nor " + second});
  }
  return value == second;
}

detail::DriverOptions driver_options(const StreamingOptions& options, const std::string& app) {
  using std::chrono::milliseconds;
  const auto in_ms = [](Duration duration) {
    return static_cast<std::uint64_t>(std::chrono::ceil<milliseconds>(duration).count());
  };
  if (options.batch != Duration{} && options.batch < milliseconds(1)) {
    throw Error(Code::bad_argument, {.why = "the batch interval is " + to_string(options.batch) + ", under 1 ms"});
  }
  detail::SettingsReader settings;
  detail::DriverOptions made;
  made.interval = options.batch != Duration{} ? options.batch : std::chrono::seconds(1);
  if (detail::outside_setting("batch").has_value()) {
    made.interval = milliseconds(settings.number("batch", 0, 1000));
    if (made.interval <= Duration{}) throw Error(Code::bad_setting, {.why = "--sluice.batch: 0 ms"});
  }
  made.checkpoint = settings.text("checkpoint", options.checkpoint, "");
  made.block_interval = milliseconds(settings.number("block-interval", in_ms(options.block_interval), 200));
  made.receiver_memory_bytes = settings.number("receiver-memory", options.receiver_memory_bytes, 256 << 20);
  made.stop_at_end_of_input = options.stop_at_end_of_input;
  made.app = app;
  made.checkpoint_interval =
      milliseconds(settings.number("checkpoint-interval", in_ms(options.checkpoint_interval), 10'000));
  made.wal = !is_second(settings, "wal", options.without_wal, "true", "false");
  made.keep_batches = settings.number("keep-batches", options.keep_batches, 0);
  made.missed = is_second(settings, "missed", options.missed == MissedBatches::run, "merge", "run")
                    ? MissedBatches::run
                    : MissedBatches::merge;
  made.output_tries = static_cast<unsigned>(settings.number("output-tries", options.output_tries, 3));
  made.failed_output =
      is_second(settings, "failed-output", options.failed_output == FailedOutput::go_on, "stop", "go-on")
          ? FailedOutput::go_on
          : FailedOutput::stop;
  made.drop_state = comma_separated(settings.text("drop-state", "", ""));
  made.accept_new_code = settings.flag("accept-replay-with-new-code", false);
  made.dry_run = settings.flag("dry-run", false);
  if (const std::uint64_t replay = settings.number("replay", 0, 0); replay > 0) {
    made.replay = Time(milliseconds(replay));
  }
  made.name_by_position = options.name_by_position;
  return made;
}

}  // namespace

StreamingContext::StreamingContext(const Context& context, const StreamingOptions& options)
    : context_(context),
      driver_(std::make_shared<detail::Driver>(context.engine(), driver_options(options, context.app()))) {}

StreamingContext StreamingContext::get_or_create(const std::string& directory,
                                                 const std::function<void(StreamingContext&)>& setup,
                                                 const ProgramOptions& options) {
  ContextOptions context = options.context;
  if (!options.app.empty()) context.app = options.app;
  if (!options.master.empty()) context.master = options.master;
  StreamingOptions streaming = options.streaming;
  if (options.batch != Duration{}) streaming.batch = options.batch;
  streaming.checkpoint = directory;
  StreamingContext ssc(Context(context), streaming);
  setup(ssc);
  return ssc;
}

DStream<std::string_view> StreamingContext::socket_text_stream(const std::string& host, std::uint16_t port,
                                                               Place where) const {
  detail::SocketTextOptions options;
  options.host = host;
  options.port = port;
  options.too_long_counter = context_.too_long_counter();
  options.block_interval = driver_->options().block_interval;
  options.partitions_max = partitions_max();
  return add_input<std::string_view>("socket_text_stream", detail::make_socket_text_input(driver_->budget(), options),
                                     where);
}

DStream<std::string_view> StreamingContext::stdin_stream(Place where) const {
  detail::StdinTextOptions options;
  options.too_long_counter = context_.too_long_counter();
  options.block_interval = driver_->options().block_interval;
  options.partitions_max = partitions_max();
  return add_input<std::string_view>("stdin_stream", detail::make_stdin_text_input(driver_->budget(), options), where);
}

DStream<std::string_view> StreamingContext::text_file_stream(const std::string& directory, TextFilesOptions options,
                                                             Place where) const {
  return add_input<std::string_view>("text_file_stream",
                                     detail::make_text_files_input(driver_->engine(), directory, options,
                                                                   context_.too_long_counter(), partitions_max()),
                                     where);
}

DStream<std::string_view> StreamingContext::follow_file(const std::string& path, FollowFileOptions options,
                                                        Place where) const {
  return add_input<std::string_view>(
      "follow_file",
      detail::make_follow_file_input(driver_->engine(), path, options, context_.too_long_counter(), partitions_max()),
      where);
}

namespace detail {

void print_batch(Time time, const std::vector<std::string>& lines, bool more) {
  const std::string rule(43, '-');
  std::string text = rule + "\nTime: " + std::to_string(to_milliseconds(time)) + " ms\n" + rule + "\n";
  for (const std::string& line : lines) text += line + "\n";
  if (more) text += "...\n";
  text += "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void fail_interval(const OperatorInfo& info, const char* what, Duration value, Duration slide) {
  throw Error(Code::bad_interval,
              {.why = std::string(what) + " is " + to_string(value) + ", the stream's slide " + to_string(slide),
               .operation = info.name,
               .where = info.where});
}

std::string batch_directory(const std::string& prefix, const std::string& suffix, Time time) {
  return prefix + "-" + std::to_string(to_milliseconds(time)) + (suffix.empty() ? "" : "." + suffix);
}

}  // namespace detail
}  // namespace sluice
