/* A stand-in for libnvidia-ml.so.1, for the real pynvml to load on a machine without a GPU.
 *
 * Its state is the file named by FAKE_NVML_STATE, read anew at every call, so that a test changes
 * a device by rewriting the file. It has lines KEY=VALUE; the last of a key counts; all have
 * defaults. Each nvmlInit adds a byte to the file of that name with ".inits" at the end.
 *
 *   devices=8               how many there are
 *   driver=570.86.15        cuda=12080
 *   init_error=18           what nvmlInit answers
 *   missing=nvmlA,nvmlB     functions that this version of the library does not have
 *   N.error=15              what device N answers to everything, also to getting its handle
 *   N.unsupported=power,..  fields (below) that it does not support
 *   N.mig=2                 MIG mode with so many instances (at most 7)
 *   N.mig_mode=1            MIG mode, also without instances
 *   N.uuid= N.name= N.pci= N.memory= N.memory_used= (bytes) N.reserved= (bytes)
 *   N.sm_clock= N.memory_clock= (MHz) N.power= N.power_limit= (mW) N.energy= (mJ)
 *   N.power_since=          since when it draws that power (seconds of the epoch); before that it
 *                           drew N.idle_power= (mW). As of cards since Ampere, the older function
 *                           tells the mean of the last second, field 186 what it draws now.
 *   N.energy_step=100       the counter goes on by what was drawn, in steps of so many ms; without
 *                           one it stands still
 *   N.temperature= N.throttle=0x8 N.utilization= N.persistence=
 *   N.application_clock= N.application_memory_clock= (MHz)
 *   N.processes=PID:BYTES,PID:BYTES   (no BYTES: not told)
 *   N.busy=PID,PID          which of them computed lately (by default all)
 *   N.sample_period=200     the driver finds that out every so many ms, and tells the last of these
 *                           samples (real ones take 1000/6 to 1000 ms)
 *   N.graphics_processes=   likewise, for who asks for those
 *   NmM.name= and so on, for what instance M of device N has of its own: uuid, name, memory,
 *   memory_used, processes. All else it does not support, as real ones do not.
 *
 * UUIDs end in the device's number: GPU-00000000-0000-0000-0000-000000000003, and those of
 * instances in the device's and the instance's: MIG-00000000-0000-0000-0000-000000000031.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    FUNCTION_NOT_FOUND = 13,
    VERSION_MISMATCH = 25,
};
enum { MOST = 64, SLOTS = 7, TEXT = 4096 };

typedef struct {
    int gpu, mig; /* mig: -1 for the whole device */
} Device;
typedef struct {
    unsigned long long total, free, used;
} Memory;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} MemoryV2;
typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char address[32];
} Pci;
typedef struct {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
} Process;
typedef struct {
    unsigned gpu, memory;
} Utilization;
typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned type, status;
    union {
        unsigned number;
        unsigned long long large;
    } value;
} FieldValue;
typedef struct {
    unsigned version;
    unsigned sensor;
    int temperature;
} Temperature;

static Device handles[MOST][SLOTS + 1];
static pid_t owner; /* as of NVML: a child must initialise it again */

/* -- the state ---------------------------------------------------------------------------- */

static const char *text(const char *key, const char *otherwise, char *into) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[TEXT];
    snprintf(into, TEXT, "%s", otherwise);
    while (file && fgets(line, sizeof line, file)) {
        size_t length = strlen(key);
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, key, length) == 0 && line[length] == '=')
            snprintf(into, TEXT, "%s", line + length + 1);
    }
    if (file)
        fclose(file);
    return into;
}

static unsigned long long number(const char *key, unsigned long long otherwise) {
    char found[TEXT];
    text(key, "", found);
    return *found ? strtoull(found, NULL, 0) : otherwise;
}

static const char *key_of(const Device *device, const char *field, char *into) {
    if (device->mig < 0)
        snprintf(into, TEXT, "%d.%s", device->gpu, field);
    else
        snprintf(into, TEXT, "%dm%d.%s", device->gpu, device->mig, field);
    return into;
}

static const char *text_of(const Device *device, const char *field, const char *otherwise,
                           char *into) {
    char key[TEXT];
    return text(key_of(device, field, key), otherwise, into);
}

static unsigned long long number_of(const Device *device, const char *field,
                                    unsigned long long otherwise) {
    char key[TEXT];
    return number(key_of(device, field, key), otherwise);
}

static int lists(const char *list, const char *word) {
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += length)
        if ((at == list || at[-1] == ',') && (at[length] == ',' || at[length] == 0))
            return 1;
    return 0;
}

static int count(void) {
    int found = (int)number("devices", 8);
    return found > MOST ? MOST : found;
}

static int instances(int gpu) {
    Device whole = {gpu, -1};
    int found = (int)number_of(&whole, "mig", 0);
    return found > SLOTS ? SLOTS : found;
}

static Device *handle(int gpu, int mig) {
    Device *found = &handles[gpu][mig + 1];
    found->gpu = gpu;
    found->mig = mig;
    return found;
}

/* What to answer instead, if anything. */
static int refusal(const char *function, const Device *device, const char *field) {
    char found[TEXT];
    if (owner != getpid())
        return UNINITIALIZED;
    if (lists(text("missing", "", found), function))
        return FUNCTION_NOT_FOUND;
    if (device) {
        Device whole = {device->gpu, -1};
        int error = (int)number_of(&whole, "error", 0);
        if (error)
            return error;
        if (lists(text_of(&whole, "unsupported", "", found), field))
            return NOT_SUPPORTED;
        if (device->mig >= 0 && !lists("uuid,name,memory,processes,instance", field))
            return NOT_SUPPORTED;
    }
    return SUCCESS;
}

#define REFUSE(device, field)                             \
    do {                                                  \
        int status = refusal(__func__, (device), (field)); \
        if (status)                                       \
            return status;                                \
    } while (0)

static double epoch(void) {
    struct timeval now;
    gettimeofday(&now, NULL);
    return (double)now.tv_sec + (double)now.tv_usec / 1e6;
}

static int copy(const char *from, char *into, unsigned size) {
    if (strlen(from) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(into, from);
    return SUCCESS;
}

/* -- the library -------------------------------------------------------------------------- */

int nvmlInitWithFlags(unsigned flags) {
    const char *path = getenv("FAKE_NVML_STATE");
    int error = (int)number("init_error", 0);
    (void)flags;
    if (path) {
        char log[TEXT];
        FILE *file;
        snprintf(log, sizeof log, "%s.inits", path);
        if ((file = fopen(log, "a"))) {
            fputc('i', file);
            fclose(file);
        }
    }
    if (!error)
        owner = getpid();
    return error;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    REFUSE(NULL, "");
    owner = 0;
    return SUCCESS;
}

const char *nvmlErrorString(int status) {
    (void)status;
    return "an error of the fake NVML";
}

int nvmlSystemGetDriverVersion(char *into, unsigned size) {
    char found[TEXT];
    REFUSE(NULL, "");
    return copy(text("driver", "570.86.15", found), into, size);
}

int nvmlSystemGetCudaDriverVersion_v2(int *into) {
    REFUSE(NULL, "");
    *into = (int)number("cuda", 12080);
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *into) {
    REFUSE(NULL, "");
    *into = (unsigned)count();
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **into) {
    if ((int)index >= count())
        return INVALID_ARGUMENT;
    *into = handle((int)index, -1);
    REFUSE(*into, "handle");
    return SUCCESS;
}

static const char *uuid_of(const Device *device, char *into) {
    char usual[64];
    if (device->mig < 0)
        snprintf(usual, sizeof usual, "GPU-00000000-0000-0000-0000-%012d", device->gpu);
    else
        snprintf(usual, sizeof usual, "MIG-00000000-0000-0000-0000-%011d%d", device->gpu,
                 device->mig);
    return text_of(device, "uuid", usual, into);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **into) {
    char found[TEXT];
    REFUSE(NULL, "");
    for (int gpu = 0; gpu < count(); gpu++)
        for (int mig = -1; mig < instances(gpu); mig++)
            if (strcmp(uuid_of(handle(gpu, mig), found), uuid) == 0) {
                *into = handle(gpu, mig);
                REFUSE(*into, "uuid");
                return SUCCESS;
            }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(Device *device, char *into, unsigned size) {
    char found[TEXT];
    REFUSE(device, "uuid");
    return copy(uuid_of(device, found), into, size);
}

int nvmlDeviceGetName(Device *device, char *into, unsigned size) {
    const char *usual = device->mig < 0 ? "NVIDIA H100 80GB HBM3" : "NVIDIA H100 80GB HBM3 MIG 1g.10gb";
    char found[TEXT];
    REFUSE(device, "name");
    return copy(text_of(device, "name", usual, found), into, size);
}

int nvmlDeviceGetPciInfo_v3(Device *device, Pci *into) {
    char usual[32], found[TEXT];
    REFUSE(device, "pci");
    memset(into, 0, sizeof *into);
    into->bus = (unsigned)device->gpu + 1;
    snprintf(usual, sizeof usual, "00000000:%02X:00.0", into->bus);
    return copy(text_of(device, "pci", usual, found), into->address, sizeof into->address);
}

static MemoryV2 memory_of(const Device *device) {
    MemoryV2 found = {0};
    found.total = number_of(device, "memory", device->mig < 0 ? 85520809984ULL : 10468982784ULL);
    found.reserved = number_of(device, "reserved", 536870912ULL);
    found.used = number_of(device, "memory_used", 4194304ULL);
    found.free = found.total - found.reserved - found.used;
    return found;
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *into) {
    MemoryV2 found;
    REFUSE(device, "memory");
    found = memory_of(device);
    into->total = found.total;
    into->free = found.free;
    into->used = found.used + found.reserved; /* as of the real first version */
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *into) {
    unsigned version = into->version;
    REFUSE(device, "memory");
    if (version != (sizeof *into | 2U << 24))
        return VERSION_MISMATCH;
    *into = memory_of(device);
    into->version = version;
    return SUCCESS;
}

#define NUMBER(function, type, field, otherwise)               \
    int function(Device *device, type *into) {                 \
        REFUSE(device, field);                                 \
        *into = (type)number_of(device, field, (otherwise));   \
        return SUCCESS;                                        \
    }

NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "throttle", 1)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "throttle", 1)
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned, "power_limit", 700000)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, "power_limit", 700000)
NUMBER(nvmlDeviceGetPersistenceMode, unsigned, "persistence", 1)

/* Millijoules drawn until `now`, from some time long ago. */
static double drawn(const Device *device, double now) {
    double power = (double)number_of(device, "power", 70000), since;
    char found[TEXT];
    since = strtod(text_of(device, "power_since", "0", found), NULL);
    if (now <= since)
        return now * (double)number_of(device, "idle_power", 70000);
    return since * (double)number_of(device, "idle_power", 70000) + (now - since) * power;
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned *into) {
    double now = epoch();
    REFUSE(device, "power");
    *into = (unsigned)(drawn(device, now) - drawn(device, now - 1) + 0.5);
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *into) {
    unsigned long long step = number_of(device, "energy_step", 0);
    REFUSE(device, "energy");
    *into = number_of(device, "energy", 1000000);
    if (step) {
        unsigned long long steps = (unsigned long long)(epoch() * 1e3) / step;
        *into += (unsigned long long)drawn(device, (double)(steps * step) / 1e3);
    }
    return SUCCESS;
}

int nvmlDeviceGetFieldValues(Device *device, int count, FieldValue *into) {
    char found[TEXT];
    REFUSE(device, "fields");
    for (int index = 0; index < count; index++) {
        double now = epoch();
        into[index].type = 1; /* an unsigned int */
        into[index].status = refusal(__func__, device, "power");
        if (into[index].field != 186)
            into[index].status = NOT_SUPPORTED;
        else if (now < strtod(text_of(device, "power_since", "0", found), NULL))
            into[index].value.number = (unsigned)number_of(device, "idle_power", 70000);
        else
            into[index].value.number = (unsigned)number_of(device, "power", 70000);
    }
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(Device *device, unsigned domain, unsigned *into) {
    const char *field = domain == 2 ? "memory_clock" : "sm_clock";
    REFUSE(device, field);
    *into = (unsigned)number_of(device, field, domain == 2 ? 2619 : 1980);
    return SUCCESS;
}

int nvmlDeviceGetApplicationsClock(Device *device, unsigned domain, unsigned *into) {
    const char *field = domain == 2 ? "application_memory_clock" : "application_clock";
    REFUSE(device, field);
    *into = (unsigned)number_of(device, field, domain == 2 ? 2619 : 1980);
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *into) {
    REFUSE(device, "temperature");
    if (sensor != 0)
        return INVALID_ARGUMENT;
    *into = (unsigned)number_of(device, "temperature", 35);
    return SUCCESS;
}

int nvmlDeviceGetTemperatureV(Device *device, Temperature *into) {
    REFUSE(device, "temperature");
    if (into->version != (sizeof *into | 1U << 24))
        return VERSION_MISMATCH;
    into->temperature = (int)number_of(device, "temperature", 35);
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *into) {
    REFUSE(device, "utilization");
    into->gpu = (unsigned)number_of(device, "utilization", 0);
    into->memory = 0;
    return SUCCESS;
}

static int list_processes(const Device *device, const char *field, unsigned *size, Process *into) {
    char found[TEXT];
    unsigned needed = 0;
    text_of(device, field, "", found);
    for (char *rest = found, *one; (one = strtok_r(rest, ",", &rest)); needed++)
        if (into && needed < *size) {
            char *memory = strchr(one, ':');
            into[needed].pid = (unsigned)strtoul(one, NULL, 10);
            into[needed].memory = memory && memory[1] ? strtoull(memory + 1, NULL, 10) : ~0ULL;
            into[needed].gpu_instance = into[needed].compute_instance = ~0U;
        }
    int fits = needed == 0 || (into && needed <= *size);
    *size = needed;
    return fits ? SUCCESS : INSUFFICIENT_SIZE;
}

#define PROCESSES(function, field)                                   \
    int function(Device *device, unsigned *size, Process *into) {    \
        REFUSE(device, "processes");                                 \
        return list_processes(device, field, size, into);            \
    }

PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, "processes")
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "processes")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics_processes")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics_processes")

typedef struct {
    unsigned pid;
    unsigned long long time;
    unsigned sm, memory, encoder, decoder;
} ProcessSample;

int nvmlDeviceGetProcessUtilization(
    Device *device, ProcessSample *into, unsigned *size, unsigned long long since) {
    char all[TEXT], found[TEXT];
    unsigned needed = 0;
    unsigned long long period = 1000 * number_of(device, "sample_period", 200);
    unsigned long long sampled = (unsigned long long)(epoch() * 1e6) / period * period;
    REFUSE(device, "busy");
    if (sampled <= since)
        return NOT_FOUND;
    text_of(device, "processes", "", all);
    text_of(device, "busy", all, found);
    for (char *rest = found, *one; (one = strtok_r(rest, ",", &rest)); needed++)
        if (into && needed < *size) {
            memset(&into[needed], 0, sizeof *into);
            into[needed].pid = (unsigned)strtoul(one, NULL, 10);
            into[needed].time = sampled;
            into[needed].sm = 50;
        }
    if (needed == 0)
        return NOT_FOUND;
    int fits = into && needed <= *size;
    *size = needed;
    return fits ? SUCCESS : INSUFFICIENT_SIZE;
}

/* -- MIG ---------------------------------------------------------------------------------- */

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    REFUSE(device, "mig");
    *current = *pending = (unsigned)number_of(device, "mig_mode", instances(device->gpu) > 0);
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *into) {
    REFUSE(device, "mig");
    *into = SLOTS;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned slot, Device **into) {
    /* The first slot is empty while there is room, as after an instance was taken away. */
    int instance = (int)slot - (instances(device->gpu) < SLOTS);
    REFUSE(device, "mig");
    if (instance < 0 || instance >= instances(device->gpu))
        return NOT_FOUND;
    *into = handle(device->gpu, instance);
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *device, Device **into) {
    REFUSE(device, "instance");
    if (device->mig < 0)
        return INVALID_ARGUMENT;
    *into = handle(device->gpu, -1);
    return SUCCESS;
}

int nvmlDeviceIsMigDeviceHandle(Device *device, unsigned *into) {
    REFUSE(device, "instance");
    *into = device->mig >= 0;
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(Device *device, unsigned *into) {
    REFUSE(device, "instance");
    if (device->mig < 0)
        return NOT_SUPPORTED;
    *into = 7U + (unsigned)device->mig;
    return SUCCESS;
}

int nvmlDeviceGetComputeInstanceId(Device *device, unsigned *into) {
    REFUSE(device, "instance");
    if (device->mig < 0)
        return NOT_SUPPORTED;
    *into = 0;
    return SUCCESS;
}
