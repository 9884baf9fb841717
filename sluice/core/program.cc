#include "sluice/core/program.h"

#include <algorithm>
#include <functional>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>

#include "sluice/core/stores.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/runtime/process.h"

namespace sluice::detail {
namespace {

// Limits on what a task message may ask for; far above any real graph.
constexpr std::size_t steps_max = 1 << 20;

/// Who reads the records of a step: another step, or an output, which follows the steps in this numbering.
struct Consumer {
  Pipe* pipe = nullptr;
  std::uint32_t number = 0;
};

/// Records go to several consumers; the chunk is the same for all. What one of them throws is passed on, after its
/// number is noted in `failed_at`: by the innermost tee on the exception's way.
class TeePipe : public Pipe {
 public:
  TeePipe(std::vector<Consumer> next, std::optional<std::uint32_t>& failed_at)
      : next_(std::move(next)), failed_at_(failed_at) {}
  void push(const void* records, std::size_t count) override {
    each([records, count](Pipe& pipe) {
      if (!pipe.full()) pipe.push(records, count);
    });
  }
  void finish() override {
    each([](Pipe& pipe) { pipe.finish(); });
  }
  bool full() const override {
    return std::all_of(next_.begin(), next_.end(), [](const Consumer& each) { return each.pipe->full(); });
  }
  bool ignores_records() const override {
    return std::all_of(next_.begin(), next_.end(), [](const Consumer& each) { return each.pipe->ignores_records(); });
  }

 private:
  template <class Call>
  void each(const Call& call) {
    std::size_t i = 0;
    try {
      for (; i < next_.size(); ++i) call(*next_[i].pipe);
    } catch (...) {
      if (!failed_at_.has_value()) failed_at_ = next_[i].number;
      throw;
    }
  }

  std::vector<Consumer> next_;
  std::optional<std::uint32_t>& failed_at_;
};

/// Several inputs, one after the other; finishes when the last one has.
class FanInPipe : public Pipe {
 public:
  FanInPipe(Pipe& next, std::size_t inputs) : next_(next), open_inputs_(inputs) {}
  void push(const void* records, std::size_t count) override { next_.push(records, count); }
  void finish() override {
    if (--open_inputs_ == 0) next_.finish();
  }
  bool full() const override { return next_.full(); }
  bool ignores_records() const override { return next_.ignores_records(); }

 private:
  Pipe& next_;
  std::size_t open_inputs_;
};

/// Ends in records at rest.
class RestPipe : public Pipe {
 public:
  explicit RestPipe(const TypeOps& type) : records_(std::make_shared<RestedRecords>(type)) {}
  void push(const void* records, std::size_t count) override { records_->append(records, count); }
  void finish() override {}
  std::shared_ptr<RestedRecords> take() { return std::move(records_); }

 private:
  std::shared_ptr<RestedRecords> records_;
};

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};

const char* intern(const std::string& text) {
  static std::mutex mutex;
  static std::set<std::string>& texts = *new std::set<std::string>;
  const std::lock_guard lock(mutex);
  return texts.insert(text).first->c_str();
}

void encode_info(const OperatorInfo& info, Encoder& out) {
  encode(info.name, out);
  encode_place(info.where, out);
}

OperatorInfoPtr decode_info(Decoder& in) {
  auto name = decode<std::string>(in);
  return std::make_shared<const OperatorInfo>(OperatorInfo{std::move(name), decode_place(in)});
}

void encode_block(const BlockId& id, Encoder& out) {
  out.u64(id.owner);
  out.u64(id.index);
}
BlockId decode_block(Decoder& in) {
  const std::uint64_t owner = in.u64();
  return {owner, in.u64()};
}

std::uint32_t decode_index(Decoder& in, std::size_t end) {
  const std::uint32_t index = in.u32();
  if (index >= end) throw Error(Code::corrupt_data, {.why = "an index of a task message is out of range"});
  return index;
}

std::uint32_t decode_count(Decoder& in) { return decode_index(in, steps_max); }

void encode_step(const TaskStep& step, Encoder& out) {
  out.u8(static_cast<std::uint8_t>(step.what.index()));
  encode_info(*step.info, out);
  out.u32(step.partition);
  out.u64(static_cast<std::uint64_t>(step.batch));
  out.u32(static_cast<std::uint32_t>(step.inputs.size()));
  for (const std::uint32_t input : step.inputs) out.u32(input);
  std::visit(Overloaded{[&](const ReadSource& s) { s.source.encode_to(out); },
                        [&](const ReadShuffle& s) {
                          out.u64(s.shuffle);
                          s.kernel.encode_to(out);
                        },
                        [&](const ReadBlock& s) {
                          encode_block(s.block, out);
                          encode_type(s.type, out);
                        },
                        [&](const RunKernel& s) { s.kernel.encode_to(out); },
                        [&](const RunZip& s) {
                          s.kernel.encode_to(out);
                          out.u8(s.state ? 1 : 0);
                          if (s.state) s.state.encode_to(out);
                        },
                        [&](const PassThrough&) {}},
             step.what);
}

TaskStep decode_step(Decoder& in, std::size_t index) {
  const std::uint8_t kind = in.u8();
  TaskStep step;
  step.info = decode_info(in);
  step.partition = in.u32();
  step.batch = static_cast<std::int64_t>(in.u64());
  const std::uint32_t inputs = decode_count(in);
  for (std::uint32_t i = 0; i < inputs; ++i) step.inputs.push_back(decode_index(in, index));
  switch (kind) {
    case 0: step.what = ReadSource{Shipped<Source>::decode_from(in)}; break;
    case 1: {
      const std::uint64_t shuffle = in.u64();
      step.what = ReadShuffle{shuffle, Shipped<ShuffleKernel>::decode_from(in)};
      break;
    }
    case 2: {
      const BlockId block = decode_block(in);
      step.what = ReadBlock{block, decode_type(in)};
      break;
    }
    case 3: step.what = RunKernel{Shipped<Kernel>::decode_from(in)}; break;
    case 4: {
      RunZip zip{Shipped<ZipKernel>::decode_from(in), {}};
      if (in.u8() != 0) zip.state = Shipped<StateMaker>::decode_from(in);
      step.what = std::move(zip);
      break;
    }
    case 5: step.what = PassThrough{}; break;
    default: throw Error(Code::corrupt_data, {.why = "unknown kind of step in a task message"});
  }
  return step;
}

void encode_output(const TaskOutput& output, Encoder& out) {
  out.u8(static_cast<std::uint8_t>(output.what.index()));
  encode_info(*output.info, out);
  out.u32(output.step);
  out.u32(output.partition);
  std::visit(Overloaded{[&](const WriteShuffle& o) {
                          out.u64(o.shuffle);
                          out.u32(o.targets);
                          o.kernel.encode_to(out);
                        },
                        [&](const WriteBlock& o) {
                          encode_block(o.block, out);
                          encode_type(o.type, out);
                          out.u32(static_cast<std::uint32_t>(o.level));
                          out.u8(o.twice ? 1 : 0);
                        },
                        [&](const Collect& o) {
                          out.u32(o.target);
                          encode_type(o.type, out);
                        }},
             output.what);
}

TaskOutput decode_output(Decoder& in, std::size_t steps) {
  const std::uint8_t kind = in.u8();
  TaskOutput output;
  output.info = decode_info(in);
  output.step = decode_index(in, steps);
  output.partition = in.u32();
  switch (kind) {
    case 0: {
      const std::uint64_t shuffle = in.u64();
      const std::uint32_t targets = decode_count(in);
      output.what = WriteShuffle{shuffle, targets, Shipped<ShuffleKernel>::decode_from(in)};
      break;
    }
    case 1: {
      const BlockId block = decode_block(in);
      const TypeOps* type = decode_type(in);
      const int level = static_cast<int>(decode_index(in, 4));
      output.what = WriteBlock{block, type, level, in.u8() != 0};
      break;
    }
    case 2: {
      const std::uint32_t target = decode_count(in);
      output.what = Collect{target, decode_type(in)};
      break;
    }
    default: throw Error(Code::corrupt_data, {.why = "unknown kind of output in a task message"});
  }
  return output;
}

/// The pipes of one attempt, from outputs back to sources.
class Attempt {
 public:
  Attempt(const TaskProgram& program, const TaskId& id, TaskEnvironment& environment,
          const std::atomic<bool>* cancelled)
      : program_(program), context_(environment, id, cancelled), consumers_(program.steps.size()) {}

  TaskResult run() {
    for (std::size_t i = 0; i < program_.outputs.size(); ++i) open_output(i);
    for (auto i = static_cast<std::uint32_t>(program_.steps.size()); i-- > 0;) {
      failed_at_ = i;  // if it cannot be opened
      open_step(i);
    }
    failed_at_.reset();
    for (const std::uint32_t step : reading_order()) read_step(step);
    return adopt();
  }

  /// Adds the outputs that depend on what has thrown; all of them where that is not known.
  void add_failed(FailedOutputs& failed) const {
    std::vector<bool> behind(program_.steps.size(), !failed_at_.has_value());
    for (std::size_t i = 0; i < behind.size(); ++i) {
      for (const std::uint32_t input : program_.steps[i].inputs) behind[i] = behind[i] || behind[input];
      if (i == failed_at_) behind[i] = true;
    }
    for (std::uint32_t i = 0; i < program_.outputs.size(); ++i) {
      if (behind[program_.outputs[i].step] || number_of_output(i) == failed_at_) failed.insert(i);
    }
  }

 private:
  // Steps in an order in which the inputs of a PassThrough are read one after the other: the order of its records must
  // not depend on what else is planned into the task. Where inputs share a source, or two of them want opposite orders,
  // it is the order of the steps.
  std::vector<std::uint32_t> reading_order() const {
    const std::size_t count = program_.steps.size();
    std::vector<std::uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0U);
    if (std::none_of(program_.steps.begin(), program_.steps.end(), passes_several)) return order;

    std::vector<std::vector<std::uint32_t>> sources(count);  // what feeds a step, in order
    std::vector<std::vector<std::uint32_t>> before(count);   // sources to be read before this one
    for (std::uint32_t i = 0; i < count; ++i) {
      if (program_.steps[i].inputs.empty()) sources[i].push_back(i);
      const std::vector<std::uint32_t>* earlier = nullptr;
      for (const std::uint32_t input : program_.steps[i].inputs) {
        for (const std::uint32_t source : sources[input]) {
          if (std::find(sources[i].begin(), sources[i].end(), source) != sources[i].end()) continue;
          sources[i].push_back(source);
          if (earlier == nullptr || !passes_several(program_.steps[i])) continue;
          before[source].insert(before[source].end(), earlier->begin(), earlier->end());
        }
        earlier = &sources[input];
      }
    }
    order.clear();
    std::vector<bool> seen(count);
    const std::function<void(std::uint32_t)> visit = [&](std::uint32_t step) {
      if (seen[step]) return;
      seen[step] = true;
      for (const std::uint32_t first : before[step]) visit(first);
      order.push_back(step);
    };
    for (std::uint32_t i = 0; i < count; ++i) visit(i);
    return order;
  }
  static bool passes_several(const TaskStep& step) {
    return step.inputs.size() > 1 && std::holds_alternative<PassThrough>(step.what);
  }

  OpenAt at(const OperatorInfoPtr& info, std::uint32_t partition, std::int64_t batch = 0) {
    return {context_, *info, partition, batch};
  }

  template <class P>
  P& keep(std::unique_ptr<P> pipe) {
    P& kept = *pipe;
    pipes_.push_back(std::move(pipe));
    return kept;
  }

  std::uint32_t number_of_output(std::size_t output) const {
    return static_cast<std::uint32_t>(program_.steps.size() + output);
  }

  void open_output(std::size_t index) {
    const TaskOutput& output = program_.outputs[index];
    // A block is part of the step it is written from: who reads the step reads the block next time.
    const bool is_block = std::holds_alternative<WriteBlock>(output.what);
    const std::uint32_t number = is_block ? output.step : number_of_output(index);
    failed_at_ = number;  // if it cannot be opened
    Pipe* pipe = std::visit(
        Overloaded{[&](const WriteShuffle& o) -> Pipe* {
                     writers_.push_back(&keep(o.kernel->open_writer(at(output.info, output.partition), o.targets)));
                     return writers_.back();
                   },
                   [&](const WriteBlock& o) -> Pipe* {
                     blocks_.push_back(&keep(std::make_unique<RestPipe>(*o.type)));
                     return blocks_.back();
                   },
                   [&](const Collect& o) -> Pipe* {
                     collected_.push_back(&keep(std::make_unique<RestPipe>(*o.type)));
                     return collected_.back();
                   }},
        output.what);
    consumers_[output.step].push_back({pipe, number});
  }

  void open_step(std::uint32_t index) {
    const TaskStep& step = program_.steps[index];
    std::vector<Consumer>& consumers = consumers_[index];
    SLUICE_ASSERT(!consumers.empty());
    if (consumers.size() > 1) consumers = {{&keep(std::make_unique<TeePipe>(consumers, failed_at_)), index}};
    Pipe& next = *consumers.front().pipe;
    if (const auto* narrow = std::get_if<RunKernel>(&step.what)) {
      Pipe& pipe = keep(narrow->kernel->open(at(step.info, step.partition), next));
      consumers_[step.inputs.at(0)].push_back({&pipe, index});
    } else if (const auto* zip = std::get_if<RunZip>(&step.what)) {
      zips_.push_back(zip->kernel->open(at(step.info, step.partition, step.batch), step.inputs.size(), next));
      for (std::size_t i = 0; i < step.inputs.size(); ++i) {
        consumers_[step.inputs[i]].push_back({&zips_.back()->input(i), index});
      }
    } else if (std::holds_alternative<PassThrough>(step.what)) {
      if (step.inputs.empty()) return;  // an empty partition: read_step finishes it
      Pipe& fan_in = keep(std::make_unique<FanInPipe>(next, step.inputs.size()));
      for (const std::uint32_t input : step.inputs) consumers_[input].push_back({&fan_in, index});
    }
  }

  void read_step(std::uint32_t index) {
    const TaskStep& step = program_.steps[index];
    Pipe& out = *consumers_[index].front().pipe;
    const OpenAt where = at(step.info, step.partition);
    context_.check_cancelled();
    try {
      if (read_into(step, where, out)) out.finish();
    } catch (...) {
      if (!failed_at_.has_value()) failed_at_ = index;
      throw;
    }
  }

  /// False for a step that is fed by others.
  bool read_into(const TaskStep& step, const OpenAt& where, Pipe& out) {
    if (const auto* source = std::get_if<ReadSource>(&step.what)) {
      source->source->read(where, out);
    } else if (const auto* shuffle = std::get_if<ReadShuffle>(&step.what)) {
      shuffle->kernel->merge(where, buckets(*shuffle, step.partition), out);
    } else if (const auto* block = std::get_if<ReadBlock>(&step.what)) {
      const RestedPtr records = find(block->block);
      if (records == nullptr) throw BlockLost(block->block);
      records->push_all(out);
    } else {
      return step.inputs.empty();
    }
    return true;
  }

  RestedPtr find(const BlockId& id) {
    const TaskEnvironment& environment = context_.environment();
    if (environment.fetched_blocks != nullptr) {
      const auto fetched = environment.fetched_blocks->find(id);
      if (fetched != environment.fetched_blocks->end()) return fetched->second;
    }
    return environment.blocks.get(id);
  }

  std::vector<BucketPtr> buckets(const ReadShuffle& shuffle, std::uint32_t target) {
    const TaskEnvironment& environment = context_.environment();
    if (environment.buckets == nullptr) return environment.shuffles.get(shuffle.shuffle, target);
    return environment.buckets->at({shuffle.shuffle, target});
  }

  // Nothing before this has changed anything outside the attempt. What may still fail (codecs of the user) comes
  // first, so that nothing has been adopted then.
  TaskResult adopt() {
    TaskResult result;
    TaskEnvironment& environment = context_.environment();
    std::vector<std::vector<BucketPtr>> buckets;
    std::vector<RestedPtr> blocks;
    for (std::size_t i = 0; i < program_.outputs.size(); ++i) {
      const TaskOutput& output = program_.outputs[i];
      failed_at_ = number_of_output(i);
      if (const auto* shuffle = std::get_if<WriteShuffle>(&output.what)) {
        buckets.push_back(writers_[buckets.size()]->take_buckets());
        if (environment.check_views) recode(*shuffle, buckets.back());
      } else if (std::holds_alternative<WriteBlock>(output.what)) {
        failed_at_ = output.step;
        blocks.push_back(rested(*blocks_[blocks.size()]));
      } else {
        result.results.push_back(rested(*collected_[result.results.size()]));
      }
    }
    failed_at_.reset();
    kill_point("task.before_adoption");
    result.adopted = !result.results.empty();
    std::size_t next_writer = 0;
    std::size_t next_block = 0;
    for (const TaskOutput& output : program_.outputs) {
      bool is_first = false;
      if (const auto* shuffle = std::get_if<WriteShuffle>(&output.what)) {
        is_first = environment.shuffles.put(shuffle->shuffle, output.partition, std::move(buckets[next_writer++]));
      } else if (const auto* block = std::get_if<WriteBlock>(&output.what)) {
        is_first = environment.blocks.put(block->block, blocks[next_block++], static_cast<Keep>(block->level));
      }
      result.adopted = result.adopted || is_first;
    }
    kill_point("task.mid_adoption");
    for (const auto& zip : zips_) zip->commit();
    kill_point("task.after_adoption");
    result.updates = context_.take_updates();
    return result;
  }

  RestedPtr rested(RestPipe& pipe) {
    RestedPtr records = pipe.take();
    if (!context_.environment().check_views) return records;
    Encoder bytes;
    records->encode_to(bytes);
    const std::string_view view = bytes.view();
    Decoder in(view);
    return RestedRecords::decode_from(in, records->type());
  }

  static void recode(const WriteShuffle& shuffle, std::vector<BucketPtr>& buckets) {
    for (BucketPtr& bucket : buckets) {
      if (bucket == nullptr) continue;
      Encoder bytes;
      shuffle.kernel->encode_bucket(*bucket, bytes);
      const std::string_view view = bytes.view();
      Decoder in(view);
      bucket = shuffle.kernel->decode_bucket(in);
    }
  }

  const TaskProgram& program_;
  TaskContext context_;
  std::vector<std::vector<Consumer>> consumers_;
  std::optional<std::uint32_t> failed_at_;  // numbered as consumers are
  std::vector<std::unique_ptr<Pipe>> pipes_;
  std::vector<std::unique_ptr<ZipInputs>> zips_;
  std::vector<ShuffleWriter*> writers_;
  std::vector<RestPipe*> blocks_;
  std::vector<RestPipe*> collected_;
};

}  // namespace

FailedOutputs all_outputs(const TaskProgram& program) {
  FailedOutputs all;
  for (std::uint32_t i = 0; i < program.outputs.size(); ++i) all.insert(all.end(), i);
  return all;
}

const Shipped<StateMaker>* state_of(const TaskStep& step) {
  const auto* zip = std::get_if<RunZip>(&step.what);
  return zip != nullptr && zip->state ? &zip->state : nullptr;
}

std::uint64_t build_of_program() {
  const Image* const image = image_of(reinterpret_cast<const void*>(&build_of_program));
  return image == nullptr ? 0 : image->build_id;
}

void encode_type(const TypeOps* type, Encoder& out) { encode_address(typeid(TypeOps), type, out); }
const TypeOps* decode_type(Decoder& in) { return static_cast<const TypeOps*>(decode_address(typeid(TypeOps), in)); }

void encode_place(const Place& place, Encoder& out) {
  encode(std::string_view(place.file_name()), out);
  encode<std::uint32_t>(place.line(), out);
}

Place decode_place(Decoder& in) {
  const char* file = intern(decode<std::string>(in));
  return Place(file, decode<std::uint32_t>(in));
}

void TaskProgram::encode_to(Encoder& out) const {
  out.u32(static_cast<std::uint32_t>(steps.size()));
  for (const TaskStep& step : steps) encode_step(step, out);
  out.u32(static_cast<std::uint32_t>(outputs.size()));
  for (const TaskOutput& output : outputs) encode_output(output, out);
}

TaskProgram TaskProgram::decode_from(Decoder& in) {
  TaskProgram program;
  const std::uint32_t steps = decode_count(in);
  for (std::uint32_t i = 0; i < steps; ++i) program.steps.push_back(decode_step(in, i));
  const std::uint32_t outputs = decode_count(in);
  for (std::uint32_t i = 0; i < outputs; ++i) program.outputs.push_back(decode_output(in, steps));
  return program;
}

TaskResult run_task(const TaskProgram& program, const TaskId& id, TaskEnvironment& environment,
                    const std::atomic<bool>* cancelled, FailedOutputs* failed) {
  Attempt attempt(program, id, environment, cancelled);
  try {
    return attempt.run();
  } catch (...) {
    if (failed != nullptr) attempt.add_failed(*failed);
    throw;
  }
}

void encode_result(const TaskResult& result, Encoder& out) {
  out.u8(result.adopted ? 1 : 0);
  out.u32(static_cast<std::uint32_t>(result.results.size()));
  for (const RestedPtr& records : result.results) {
    encode_type(&records->type(), out);
    records->encode_to(out);
  }
  out.u32(static_cast<std::uint32_t>(result.updates.size()));
  for (const auto& [id, amount] : result.updates) {
    out.u64(id);
    out.u64(static_cast<std::uint64_t>(amount));
  }
}

TaskResult decode_result(Decoder& in) {
  TaskResult result;
  result.adopted = in.u8() != 0;
  const std::uint32_t results = decode_count(in);
  for (std::uint32_t i = 0; i < results; ++i) {
    const TypeOps* type = decode_type(in);
    result.results.push_back(RestedRecords::decode_from(in, *type));
  }
  const std::uint32_t updates = decode_count(in);
  for (std::uint32_t i = 0; i < updates; ++i) {
    const std::uint64_t id = in.u64();
    result.updates[id] = static_cast<std::int64_t>(in.u64());
  }
  return result;
}

}  // namespace sluice::detail
