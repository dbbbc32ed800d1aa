/* A stand-in for libcuda.so.1, for a process to load on a machine without a GPU.
 *
 * It has two devices, contexts, and work that takes time or ends in an error. As the real one does,
 * it answers CUDA_ERROR_NOT_INITIALIZED before cuInit and in a child that was forked since, and an
 * error of work is seen by the next call that waits, and then by every call that uses the context.
 *
 * Tests use what the real library does not have:
 *
 *   fakeLaunch(milliseconds, error)   launches work in the current context: it ends that much later,
 *                                     with that error (0: none)
 *   fakeCost(milliseconds)            what waiting takes, also where nothing is left to do
 *   fakeInits()                       how often the process called cuInit
 *   fakeCreated()                     how many contexts it created
 *   fakeSynchronized()                how often it waited
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    CONTEXT_IS_DESTROYED = 709,
};
enum { DEVICES = 2, DEPTH = 16 };

typedef struct {
    int device, error, pending, destroyed;
    double until;
} Context;

static pid_t owner;
static int inits, created, synchronized, cost;
static Context *primary[DEVICES];
static int retained[DEVICES];
static __thread Context *stack[DEPTH];
static __thread int depth;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

#define REFUSE()                    \
    do {                            \
        if (owner != getpid())      \
            return NOT_INITIALIZED; \
    } while (0)

static Context *current(void) { return depth ? stack[depth - 1] : NULL; }

static Context *new_context(int device) {
    Context *made = calloc(1, sizeof *made);
    made->device = device;
    created++;
    return made;
}

int cuInit(unsigned flags) {
    (void)flags;
    inits++;
    owner = getpid();
    return SUCCESS;
}

int cuDeviceGetCount(int *into) {
    REFUSE();
    *into = DEVICES;
    return SUCCESS;
}

int cuDeviceGet(int *into, int ordinal) {
    REFUSE();
    if (ordinal < 0 || ordinal >= DEVICES)
        return INVALID_DEVICE;
    *into = ordinal;
    return SUCCESS;
}

/* As of the real one, the devices are not in the order of their UUIDs. */
int cuDeviceGetUuid_v2(unsigned char *into, int device) {
    REFUSE();
    if (device < 0 || device >= DEVICES)
        return INVALID_DEVICE;
    memset(into, 0, 16);
    into[15] = (unsigned char)(DEVICES - 1 - device);
    return SUCCESS;
}

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    REFUSE();
    if (device < 0 || device >= DEVICES)
        return INVALID_DEVICE;
    *flags = 0;
    *active = primary[device] != NULL;
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(Context **into, int device) {
    REFUSE();
    if (device < 0 || device >= DEVICES)
        return INVALID_DEVICE;
    if (!primary[device])
        primary[device] = new_context(device);
    retained[device]++;
    *into = primary[device];
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    REFUSE();
    if (device < 0 || device >= DEVICES || !retained[device])
        return INVALID_CONTEXT;
    if (!--retained[device]) {
        primary[device]->destroyed = 1;
        primary[device] = NULL;
    }
    return SUCCESS;
}

int cuCtxCreate_v2(Context **into, unsigned flags, int device) {
    REFUSE();
    (void)flags;
    *into = stack[depth++] = new_context(device);
    return SUCCESS;
}

int cuCtxGetCurrent(Context **into) {
    REFUSE();
    *into = current();
    return SUCCESS;
}

int cuCtxSetCurrent(Context *context) {
    REFUSE();
    depth = context ? 1 : 0;
    stack[0] = context;
    return SUCCESS;
}

int cuCtxPushCurrent_v2(Context *context) {
    REFUSE();
    if (context->destroyed)
        return CONTEXT_IS_DESTROYED;
    if (depth == DEPTH)
        return INVALID_VALUE;
    stack[depth++] = context;
    return SUCCESS;
}

int cuCtxPopCurrent_v2(Context **into) {
    REFUSE();
    if (!depth)
        return INVALID_CONTEXT;
    *into = stack[--depth];
    return SUCCESS;
}

int cuCtxSynchronize(void) {
    Context *context = current();
    REFUSE();
    if (!context)
        return INVALID_CONTEXT;
    synchronized++;
    if (context->error)
        return context->error;
    double end = now() + 1e-3 * cost;
    if (context->until > end)
        end = context->until;
    for (double left; (left = end - now()) > 0;) {
        struct timespec rest = {(time_t)left, (long)(1e9 * (left - (double)(time_t)left))};
        nanosleep(&rest, NULL);
    }
    return context->error = context->pending;
}

/* Like any call that needs the context. */
int cuMemAlloc_v2(unsigned long long *into, size_t size) {
    Context *context = current();
    REFUSE();
    if (!context)
        return INVALID_CONTEXT;
    *into = 0x1000 + size;
    return context->error;
}

static const struct {
    int status;
    const char *name, *text;
} KNOWN[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {710, "CUDA_ERROR_ASSERT", "device-side assert triggered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
};

int cuGetErrorName(int status, const char **into) {
    *into = NULL;
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
        if (KNOWN[i].status == status)
            *into = KNOWN[i].name;
    return *into ? SUCCESS : INVALID_VALUE;
}

int cuGetErrorString(int status, const char **into) {
    *into = NULL;
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
        if (KNOWN[i].status == status)
            *into = KNOWN[i].text;
    return *into ? SUCCESS : INVALID_VALUE;
}

/* -- for tests ---------------------------------------------------------------------------- */

int fakeLaunch(int milliseconds, int error) {
    Context *context = current();
    double begin = now();
    REFUSE();
    if (!context)
        return INVALID_CONTEXT;
    if (context->error)
        return context->error;
    if (context->until > begin)
        begin = context->until;
    context->until = begin + 1e-3 * milliseconds;
    if (error)
        context->pending = error;
    return SUCCESS;
}

void fakeCost(int milliseconds) { cost = milliseconds; }
int fakeInits(void) { return inits; }
int fakeCreated(void) { return created; }
int fakeSynchronized(void) { return synchronized; }
